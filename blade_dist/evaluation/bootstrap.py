"""Percentile bootstrap over users: a user's prompts stay together. Pure numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2**22
"""Users drawn at once, over all resamples."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % percentile interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class Resamples:
    """Resamples of users, the same ones for every number: differences and ratios of policies are paired.

    A resample draws as many users as there are, with replacement; a drawn user brings all rows of theirs (of every
    prompt, window, seed). Intervals are Efron's percentile method.
    """

    def __init__(self, users: NDArray, resamples: int, seed: int) -> None:
        """
        Args:
            users: ``[n]`` who each row belongs to; the values of every call come in this order.
            resamples: number of resamples.
            seed: of the resampling.
        """
        _, self._owner = np.unique(users, return_inverse=True)
        self._users = int(self._owner.max()) + 1
        self._resamples, self._seed = resamples, seed

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[resamples]`` means over all rows of the drawn users; of ``[n, m]`` values ``[resamples, m]``."""
        columns = values.reshape(len(values), -1)
        sums = np.stack([np.bincount(self._owner, column) for column in columns.T], axis=1)
        sums = np.column_stack([sums, np.bincount(self._owner)])
        # how often each user is drawn, times all columns at once: drawing takes longer than adding up
        totals = np.concatenate([times @ sums for times in self._times_drawn()])
        return (totals[:, :-1] / totals[:, -1:]).reshape(self._resamples, *values.shape[1:])

    def mean(self, values: NDArray[np.float64]) -> Interval:
        """Mean of ``[n]`` values and its interval."""
        return _interval(float(values.mean()), self.means(values))

    def each_mean(self, values: Mapping[str, NDArray[np.float64]]) -> dict[str, Interval]:
        """As :meth:`mean`, of many; much faster than one by one."""
        if not values:
            return {}
        means = self.means(np.column_stack(list(values.values())))
        return {
            name: _interval(float(of.mean()), column)
            for (name, of), column in zip(values.items(), means.T, strict=True)
        }

    def ratio(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> Interval:
        """``mean(a) / mean(b) - 1`` and its interval; both means are of the same drawn users."""
        return _interval(float(a.mean() / b.mean() - 1), self.means(a) / self.means(b) - 1)

    def p_value(self, difference: NDArray[np.float64]) -> float:
        """Two-sided: twice the smaller share of resampled means that are not below, or not above, 0.

        One more resample at 0 is counted on both sides, so that it is never 0 itself.
        """
        means = self.means(difference)
        low, high = ((1 + (side >= 0).sum()) / (1 + len(means)) for side in (-means, means))
        return float(min(1.0, 2 * min(low, high)))

    def _times_drawn(self) -> Iterator[NDArray[np.float64]]:
        """``[r, users]`` in blocks, as all resamples of a million users would not fit into memory."""
        rng = np.random.default_rng(self._seed)  # begun anew for each call: this is what pairs them
        block = max(1, DRAWS // self._users)
        for start in range(0, self._resamples, block):
            rows = min(block, self._resamples - start)
            drawn = rng.integers(0, self._users, (rows, self._users)) + self._users * np.arange(rows)[:, None]
            times = np.bincount(drawn.ravel(), minlength=rows * self._users)
            yield times.reshape(rows, self._users).astype(np.float64)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def mean_interval(values: NDArray[np.float64], users: NDArray, resamples: int, seed: int) -> Interval:
    """Mean over rows, users resampled with replacement (Efron's percentile method).

    A user's rows are not independent, so that whole users are drawn. A resample's mean weighs rows, as the mean of all
    does: sum of the drawn users' sums over the sum of their counts.

    Args:
        values: ``[n]``.
        users: ``[n]`` who each row belongs to.
        resamples: number of resamples.
        seed: of the resampling.
    """
    return Resamples(users, resamples, seed).mean(values)


def paired_bootstrap(
    a: NDArray[np.float64], b: NDArray[np.float64], users: NDArray, resamples: int, seed: int
) -> Interval:
    """Interval of the mean of ``a - b``, row by row the same prompt.

    Args:
        a: ``[n]``.
        b: ``[n]``.
        users: ``[n]`` who each row belongs to.
        resamples: number of resamples.
        seed: of the resampling.
    """
    return mean_interval(a - b, users, resamples, seed)
