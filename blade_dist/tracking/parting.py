"""Whether the reward of sampled lists rises on fresh prompts as it does on training prompts. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

FRESH, FRESH_ERROR = "fresh_reward", "fresh_error"
"""Columns of the step log: mean reward of the lists that are sampled for validation prompts, and its standard error."""

START = "/start"
"""Behind the names of what was measured before the first step, which stands in the first row."""

SIGNIFICANT = 2.0
"""Standard errors by which the two must have risen apart."""

SHOWN = 8
"""Checkpoints in the table at most."""


@dataclass(frozen=True)
class Look:
    """Mean rewards of sampled lists at one time, with their standard errors."""

    step: int
    """Steps that were made."""
    seen: float
    """On training prompts: those of the steps since the look before."""
    seen_error: float
    fresh: float
    """On validation prompts."""
    fresh_error: float


class Parting:
    """Follows the rows of a step log."""

    def __init__(self, seen: float, seen_error: float) -> None:
        """``seen``: mean reward of the reference's lists for the training prompts, with its standard error."""
        self._reference = seen, seen_error
        self._rewards: list[float] = []
        self._looked = 0
        self.looks: list[Look] = []
        """Before the first step, and at each checkpoint; none where no validation prompt is scored."""

    def see(self, row: Mapping[str, float]) -> bool:
        """Whether the two are apart at the step of the next row, which no earlier one was."""
        if row.get(FRESH + START) is not None:
            self.looks = [Look(0, *self._reference, row[FRESH + START], row[FRESH_ERROR + START])]
        self._rewards.append(row["reward"])
        if row.get(FRESH) is None:
            return False
        before = any(map(self.apart, self.looks))
        window = self._rewards[self._looked :]
        self._looked = len(self._rewards)
        seen_error = _noise(self._rewards) / math.sqrt(len(window))
        look = Look(self._looked, float(np.mean(window)), seen_error, row[FRESH], row[FRESH_ERROR])
        self.looks.append(look)
        return self.apart(look) and not before

    def rises(self, look: Look) -> tuple[float, float]:
        """Since the first look: on training prompts, and on fresh ones."""
        return look.seen - self.looks[0].seen, look.fresh - self.looks[0].fresh

    def apart(self, look: Look) -> bool:
        """Whether fresh prompts gained less than half of what training prompts did, by more than chance makes."""
        first, (seen, fresh) = self.looks[0], self.rises(look)
        errors = (first.seen_error, first.fresh_error, look.seen_error, look.fresh_error)
        return fresh < seen / 2 and seen - fresh > SIGNIFICANT * math.hypot(*errors)

    def table(self) -> Table:
        """The looks, :data:`SHOWN` of them at most, the first and the last among them."""
        table = Table(title="mean reward of sampled lists")
        for name in ("step", "training prompts", "fresh prompts"):
            table.add_column(name, justify="right")
        for number in np.unique(np.linspace(0, len(self.looks) - 1, SHOWN).round().astype(int)):
            look = self.looks[number]
            table.add_row(str(look.step), _shown(look.seen, look.seen_error), _shown(look.fresh, look.fresh_error))
        return table


def _shown(mean: float, error: float) -> str:
    return f"{mean:.4f}" + (f" ± {error:.4f}" if math.isfinite(error) else "")


def _noise(rewards: Sequence[float]) -> float:
    """Standard deviation of a step's mean reward around its trend, by differences of neighbours (von Neumann); not
    known of a single step."""
    if len(rewards) < 2:
        return math.inf
    return math.sqrt(float(np.mean(np.diff(rewards) ** 2)) / 2)
