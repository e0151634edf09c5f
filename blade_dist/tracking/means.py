"""The numbers of a run: means over its late steps. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

LAST = 0.1
"""Share of the steps, the last ones, whose mean is a run's number: one step's has the noise of its few prompts."""


def mean_of_last(values: Sequence[float], share: float = LAST) -> float:
    """Mean of the last ``share`` of the values, of one at least."""
    return statistics.fmean(values[-max(1, round(share * len(values))) :])
