"""Business rules as rewards: what a list gains by the items that it shows, and how far it crowds a group.

A list may break these; ``lists.exclude`` and ``lists.at_most`` are the rules that it can't break.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import ranges
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.names import named_items
from blade_dist.rewards.lists import Lists

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Boost:
    """What every item is worth by itself."""

    weight: Scores
    """``[I + 1]``; a miss (the last) weighs as little as the least item, and never more than 0."""

    def __call__(self, lists: Lists, k: int) -> Scores:
        """Mean weight of the first k positions.

        >>> Boost(np.array([1.0, -0.5, 0.0, 0.0, -0.5]))(example([0, 1, 2, 3]), 4)
        array([0.125])
        """
        return self.weight[lists.items[:, :k]].mean(axis=1)


def make_boost(name: str, weights: Mapping[str, float], catalog: Catalog) -> Boost:
    """``reward.boosts.<name>`` for a catalog: an item that is named by itself and by its groups weighs the sum.

    Raises:
        UserError: an item or a group that is not there.
    """
    weight = np.zeros(len(catalog) + 1)
    named = named_items(list(weights), catalog, f"reward.boosts.{name}")
    for items, value in zip(named, weights.values(), strict=True):
        weight[items] += value
    weight[-1] = weight.min()
    return Boost(weight)


@dataclass(frozen=True)
class Excess:
    """The soft form of at most ``most`` items of a group."""

    most: int

    def __call__(self, lists: Lists, k: int) -> Scores:
        """Share of the first k positions whose item has a group with ``most`` earlier positions; less is better.

        A miss is one too many. Here the fourth position has the third item of group a:

        >>> Excess(2)(example([0, 1, 2, 3], groups=["a", "a", "b", "a"]), 4)
        array([0.25])
        """
        # a row for each pair of a position and one of its item's groups; sorted by (list, group), stably, the number of
        # earlier positions with the same group is the place within its run
        items = lists.items[:, :k].reshape(-1).astype(np.int64)
        valid = lists.valid[:, :k].reshape(-1)
        place = np.flatnonzero(valid)
        groups = lists.catalog.groups.take(items[place])
        place = np.repeat(place, groups.lengths)
        pair = place // k * max(1, lists.catalog.n_groups) + groups.flat
        order = np.argsort(pair, kind="stable")
        first = np.flatnonzero(np.diff(pair[order], prepend=-1))
        earlier = ranges(0, np.diff(first, append=len(order)))
        over = ~valid
        over[place[order[earlier >= self.most]]] = True
        return over.reshape(-1, k).mean(axis=1)
