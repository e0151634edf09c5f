"""Percentile bootstrap over users: a user's prompts stay together. Pure numpy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2**22
"""Users drawn at once, over all resamples."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % percentile interval."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def mean_interval(values: NDArray[np.float64], users: NDArray, resamples: int, seed: int) -> Interval:
    """Mean over rows, users resampled with replacement (Efron's percentile method).

    Args:
        values: ``[n]``.
        users: ``[n]`` who each row belongs to.
        resamples: number of resamples.
        seed: of the resampling.
    """
    _, owner = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    rng = np.random.default_rng(seed)
    means = []
    chunk = max(1, DRAWS // len(sums))
    for start in range(0, resamples, chunk):
        drawn = rng.integers(0, len(sums), (min(chunk, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


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
