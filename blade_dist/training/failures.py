"""How often the learners may fail: in a row, as a run of days may lose them many times and still finish. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Failures:
    """Counts those without a new step between."""

    allowed: int
    """After how many in a row there is another start."""
    in_a_row: int = 0
    furthest: int = -1
    """Newest step that was done before the last failure; -1 is none."""

    def another(self, step: int) -> bool:
        """A failure; whether the learners shall start again. ``step``: the newest that was ever done, -1 for none."""
        self.in_a_row = 1 if step > self.furthest else self.in_a_row + 1
        self.furthest = step
        return self.in_a_row <= self.allowed
