"""When to stop: a number on held-out prompts that has not become better for a while. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Patience:
    """Counts looks since the best one; part of a checkpoint."""

    best: float = -math.inf
    without_better: int = 0

    def see(self, value: float) -> None:
        """A new look; more is better."""
        self.without_better = 0 if value > self.best else self.without_better + 1
        self.best = max(self.best, value)

    def over(self, limit: int | None) -> bool:
        """Whether ``limit`` looks in a row were no better than the best; never without a limit."""
        return limit is not None and self.without_better >= limit
