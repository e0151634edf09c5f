"""What every metric sees: a batch of lists, what was held out, and what the user knew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.rewards.item_features import group_sums

NOTHING = MISS - 1
"""Stands for no target: equal to no position, a miss included."""


@dataclass(frozen=True, eq=False)
class Lists:
    """``n`` lists of ``K`` positions."""

    items: NDArray[np.int32]
    """``[n, K]`` catalog indices, :data:`~blade_dist.batches.MISS` where a position is a miss."""
    targets: Ragged
    """``n`` rows of held-out items."""
    history: Ragged
    """``n`` rows of the user's items."""
    catalog: Catalog
    users: NDArray | None = None
    """``[n]`` user ids as in the log, for rewards that know more of a user; None where they are not known."""
    ranker: Ranked | None = None
    """The likeliest next items of each list's user by the ranker of ``reward.ranker``, scored by log-prob (nats); None
    where no metric reads it."""

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """``[n, K]`` whether the position names an item."""
        return self.items != MISS

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """``[n, K]`` whether the position's item was held out."""
        hits = np.zeros(self.items.shape, dtype=bool)
        lengths, first = self.targets.lengths, self.targets.offsets[:-1]
        # one pass per target column, not per list: users have a handful of targets, a batch has thousands of lists
        for column in range(int(lengths.max(initial=0))):
            has = column < lengths
            wanted = np.full(len(self), NOTHING, dtype=self.items.dtype)
            wanted[has] = self.targets.flat[first[has] + column]
            hits |= self.items == wanted[:, None]
        return hits

    def group_shares(self, k: int) -> NDArray[np.float64]:
        """``[n, groups]`` share of each group in the first ``k`` positions.

        An item's 1/k is split evenly over its groups. Misses, and items without a group, are in no group's share.
        """
        flat = self.items[:, :k].reshape(-1)
        return group_sums(self.catalog, flat, np.arange(len(self) + 1) * k) / k

    @cached_property
    def history_shares(self) -> NDArray[np.float64]:
        """``[n, groups]`` share of each group in the user's history, as :meth:`group_shares`; 0 without a history."""
        sums = group_sums(self.catalog, self.history.flat, self.history.offsets)
        return sums / np.maximum(self.history.lengths, 1)[:, None]
