"""From proxy rewards to advantages, group by group. Pure numpy.

With ``std`` any factor of the proxy rewards cancels, so that the N - 1 of Best-of-N enters through the weight of the KL
(``learner.kl_coef`` is ``1 / (bon_n - 1)``). With ``none`` the objective is the variational one of Best-of-N (Amini et
al., ICLR 2025), divided by N - 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["std", "none"]

EPSILON = 1e-6
"""Added to the standard deviation (GRPO)."""

SAME = 1e-12
"""Proxy rewards closer than this are equal: what is left is rounding."""


def informative(proxy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``[B]`` whether the ``[B, G]`` proxy rewards of a group differ."""
    columns = np.ascontiguousarray(proxy.T)  # numpy reduces G rows of length B faster than B rows of length G
    high, low = columns.max(axis=0), columns.min(axis=0)
    return high - low > SAME * np.maximum(1.0, np.maximum(np.abs(high), np.abs(low)))


def group_advantage(proxy: NDArray[np.float64], scale: Scale) -> NDArray[np.float32]:
    """``R - mean(R)``, divided by ``std(R) + 1e-6`` (ddof 0) with ``std``; 0 in a group without differences.

    >>> group_advantage(np.array([[1.0, 3.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]]), "std").round(2)
    array([[-1.41,  1.41,  0.  ,  0.  ],
           [ 0.  ,  0.  ,  0.  ,  0.  ]], dtype=float32)

    Args:
        proxy: ``[B, G]``.
        scale: ``std`` (GRPO: Shao et al., "DeepSeekMath", 2024) or ``none``.
    """
    columns = np.ascontiguousarray(proxy.T)
    centred = columns - columns.mean(axis=0)
    if scale == "std":
        centred /= np.sqrt((centred**2).mean(axis=0)) + EPSILON
    # what is left of a group without differences is rounding, which the division by its std would blow up
    return np.where(informative(proxy), centred, 0.0).T.astype(np.float32)
