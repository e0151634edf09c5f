"""What a difference is worth: one bootstrap over users for every number of the table, and Holm's rule. Pure numpy.

A resample draws users; a drawn user brings all rows, of every test window and every seed, of every policy. Differences
are paired by (seed, prompt).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from blade_dist.evaluation.bootstrap import Interval

RESAMPLES = 10_000
"""So many that the smallest p-value, times the size of the family, is far below :data:`LEVEL`."""
LEVEL = 0.05
"""The family's error rate."""

Scores = NDArray[np.float64]


class Users:
    """Resamples of users, drawn once, so that every number is of the same ones."""

    def __init__(self, users: NDArray, resamples: int = RESAMPLES, seed: int = 0) -> None:
        """
        Args:
            users: ``[n]`` who each row belongs to; the rows of every call come in this order.
            resamples: number of resamples.
            seed: of the resampling.
        """
        names, self._owner = np.unique(users, return_inverse=True)
        drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
        self._times = np.zeros((resamples, len(names)))
        np.add.at(self._times, (np.arange(resamples)[:, None], drawn), 1.0)

    def means(self, values: Scores) -> Scores:
        """``[resamples]`` means over the rows that are not NaN; NaN where a resample has none."""
        known = ~np.isnan(values)
        sums = np.bincount(self._owner[known], values[known], self._times.shape[1])
        counts = np.bincount(self._owner[known], minlength=self._times.shape[1])
        with np.errstate(invalid="ignore"):
            return (self._times @ sums) / (self._times @ counts)

    def mean(self, values: Scores) -> Interval:
        """Mean of ``[n]`` values and its 95 % percentile interval; rows that are NaN are not counted."""
        return _interval(float(np.nanmean(values)), self.means(values))

    def ratio(self, a: Scores, b: Scores) -> Interval:
        """``mean(a) / mean(b) - 1`` and its interval; both means of the same drawn users."""
        return _interval(float(np.nanmean(a) / np.nanmean(b) - 1), self.means(a) / self.means(b) - 1)

    def p_value(self, difference: Scores) -> float:
        """Two-sided: twice the smaller share of resampled means that are not below, or not above, 0; with one more
        resample at 0, so that it is never 0 itself."""
        means = self.means(difference)
        low, high = ((1 + (side >= 0).sum()) / (1 + len(means)) for side in (-means, means))
        return float(min(1.0, 2 * min(low, high)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of one family (Holm, 1979): the i-th smallest of m, times ``m - i + 1``; never falling, at most
    1. So 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    adjusted, least = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def _interval(value: float, resampled: Scores) -> Interval:
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))
