"""Fine-tuning on the best list of each group: expert iteration, or RAFT (Dong et al., TMLR 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.posterior.advantage import informative
from blade_dist.posterior.beta import Array
from blade_dist.posterior.targets.target import Groups, Target


def proxy(groups: Groups) -> Array:
    """``R = r``: the best list is the one of the highest reward."""
    return groups.rewards


def best_of_group(proxy: Array) -> NDArray[np.float32]:
    """G for the best list of each ``[B, G]`` group, 0 for the others; equally good ones share it.

    As the loss is a mean over all lists' tokens, its gradient is that of the best lists' own mean negative
    log-likelihood: supervised fine-tuning on them. A group without differences has no best list: 0, so that the policy
    does not imitate what it wrote anyway.

    >>> best_of_group(np.array([[0.1, 0.7, 0.3, 0.2], [0.5, 0.5, 0.1, 0.0], [0.5, 0.5, 0.5, 0.5]]))
    array([[0., 4., 0., 0.],
           [2., 2., 0., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    best = (proxy == proxy.max(axis=1, keepdims=True)) & informative(proxy)[:, None]
    return (proxy.shape[1] * best / np.maximum(best.sum(axis=1, keepdims=True), 1)).astype(np.float32)


TARGET = Target(proxy, fixed_advantage=best_of_group)
