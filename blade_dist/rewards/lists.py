"""What every metric sees: a batch of lists, what was held out, and what the user knew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.catalog import Catalog


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

    def __len__(self) -> int:
        return len(self.items)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """``[n, K]`` whether the position names an item."""
        return self.items != MISS

    @cached_property
    def hits(self) -> NDArray[np.bool_]:
        """``[n, K]`` whether the position's item was held out."""
        pairs = np.arange(len(self))[:, None] * np.int64(len(self.catalog)) + self.items
        rows = np.repeat(np.arange(len(self)), self.targets.lengths)
        wanted = rows * np.int64(len(self.catalog)) + self.targets.flat
        return np.isin(pairs, wanted) & self.valid

    @cached_property
    def group_mass(self) -> NDArray[np.float32]:
        """``[n, K, groups]``: an item's mass of 1, split evenly over its groups; 0 for a miss."""
        matrix = np.vstack([self.catalog.group_matrix(), np.zeros((1, self.catalog.n_groups), np.float32)])
        return matrix[self.items]  # MISS is the last row

    @cached_property
    def history_shares(self) -> NDArray[np.float64]:
        """``[n, groups]`` share of each group in the user's history (0 everywhere without one)."""
        shares = np.zeros((len(self), self.catalog.n_groups))
        rows = np.repeat(np.arange(len(self)), self.history.lengths)
        np.add.at(shares, rows, self.catalog.group_matrix()[self.history.flat])
        return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
