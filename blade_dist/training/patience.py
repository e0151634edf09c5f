"""When to stop: a number on held-out prompts that has not become better for a while. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Patience:
    """Counts looks since the best one; part of a checkpoint."""

    best: float | None = None
    """None before the first look."""
    without_better: int = 0

    def see(self, value: float) -> bool:
        """A new look; whether it is the best so far. More is better: whoever minimises a loss shows ``-loss``.

        A look that is no number is never better, not even as the first one.
        """
        better = value > (-math.inf if self.best is None else self.best)
        if better:
            self.best, self.without_better = value, 0
        else:
            self.without_better += 1
        return better

    def over(self, limit: int | None) -> bool:
        """Whether ``limit`` looks in a row were no better than the best; never without a limit."""
        return limit is not None and self.without_better >= limit
