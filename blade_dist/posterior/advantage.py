"""From proxy rewards to advantages, group by group. Pure numpy."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-6
"""Added to the standard deviation (GRPO)."""

SAME = 1e-12
"""Proxy rewards closer than this are equal: what is left is rounding."""


def informative(proxy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``[B]`` whether the ``[B, G]`` proxy rewards of a group differ."""
    columns = np.ascontiguousarray(proxy.T)  # long rows, for numpy's sake
    high, low = columns.max(axis=0), columns.min(axis=0)
    return high - low > SAME * np.maximum(1.0, np.maximum(np.abs(high), np.abs(low)))


def best_of_group(proxy: NDArray[np.float64], _scale: Literal["std", "none"]) -> NDArray[np.float32]:
    """G for the best list of each ``[B, G]`` group, 0 for the others; equally good ones share it.

    As the loss is a mean over all lists' tokens, its gradient is that of the best lists' own mean negative
    log-likelihood: supervised fine-tuning on them. A group without differences has no best list: 0, so that it does not
    teach the policy what it wrote anyway.
    """
    best = (proxy == proxy.max(axis=1, keepdims=True)) & informative(proxy)[:, None]
    return (proxy.shape[1] * best / np.maximum(best.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def centred_advantage(proxy: NDArray[np.float64], _scale: Literal["std", "none"]) -> NDArray[np.float32]:
    """``R - mean(R)``, whatever the scale: for objectives that say how large an advantage is."""
    return group_advantage(proxy, "none")


def group_advantage(proxy: NDArray[np.float64], scale: Literal["std", "none"]) -> NDArray[np.float32]:
    """``R - mean(R)``, divided by ``std(R) + 1e-6`` (ddof 0) with ``std``; 0 in a group without differences.

    Args:
        proxy: ``[B, G]``.
        scale: ``std`` (GRPO, Shao et al., 2024) or ``none`` (the variational Best-of-N objective over N - 1).
    """
    columns = np.ascontiguousarray(proxy.T)
    centred = columns - columns.mean(axis=0)
    if scale == "std":
        centred /= np.sqrt((centred**2).mean(axis=0)) + EPSILON
    return np.where(informative(proxy), centred, 0.0).T.astype(np.float32)
