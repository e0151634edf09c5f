"""Whether the learners shall end before their last step, asked for by the driver."""

from __future__ import annotations

import time
from typing import Any

import ray

from blade_dist.training.collective import from_first

LOOK_EVERY_S = 1.0
"""A fine-tuning step may take a hundredth of a second, and a look half of one."""


class Ending:
    """Rank 0 looks at the tracker now and then; every rank hears of it before the same step."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._looked = 0.0
        self._ends = False

    def asked(self) -> bool:
        """Collective."""
        return from_first(self._look)

    def _look(self) -> bool:
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._ends = ray.get(self._tracker.asked_to_end.remote())
            self._looked = time.monotonic()
        return self._ends
