"""A request that engines are at, as references to their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.rollouts.health import Life
from blade_dist.rollouts.request import RolloutRequest


@dataclass(frozen=True, eq=False)
class Part:
    """An engine's share of a request."""

    rows: NDArray[np.int64]
    """Of the request, consecutive."""
    life: Life
    """Of the engine."""
    answer: Any
    """Reference."""


@dataclass(frozen=True)
class Asked:
    """A request that engines are at."""

    request: RolloutRequest
    verb: str
    arguments: tuple[Any, ...]
    parts: list[Part]
    """In the order of the request."""

    @property
    def answers(self) -> list[Any]:
        """References to the parts, in the order of the request."""
        return [part.answer for part in self.parts]
