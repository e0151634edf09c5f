"""A reward as a user writes one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.rewards.lists import Lists


def hit(lists: Lists) -> NDArray[np.bool_]:
    """Whether any held-out item is there."""
    return lists.hits.any(axis=1)
