"""Business rules: items that no list may hold, and groups that it may hold only a few of. Pure numpy.

These are the hard forms, which no list breaks; the soft ones are rewards (``rewards/soft.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.names import group_number, named_items
from blade_dist.catalog.trie import Trie
from blade_dist.errors import UserError
from blade_dist.settings import ListSettings

EVERY = "*"
"""Stands for every group that ``lists.at_most`` does not name."""
_GROUP_BITS = 32


@dataclass(frozen=True, eq=False)
class Rules:
    """The rules for lists over ``I`` items: catalog indices, or (see :meth:`ranked`) a trie's ranks."""

    excluded: NDArray[np.bool_]
    """``[I]`` whether no list may hold the item."""
    groups: Ragged
    """``I`` rows, int64: the item's limited groups, ascending."""
    limit: NDArray[np.int64]
    """``[limited groups]`` the most items of each in a list: at least 1, ascending."""

    @cached_property
    def members(self) -> Ragged:
        """A row per limited group: its items."""
        items = np.repeat(np.arange(len(self.groups)), self.groups.lengths)
        return Ragged.of_pairs(self.groups.flat, items, len(self.limit))

    def ranked(self, trie: Trie) -> Rules:
        """The same rules over the trie's ranks."""
        return Rules(self.excluded[trie.item], self.groups.take(trie.item.astype(np.int64)), self.limit)

    def full(self, items: NDArray[np.int32]) -> Ragged:
        """Limited groups, ascending, that lists of these items (``[n, j]``, misses aside) may hold no more of.

        With at most 1 of group 0 and 2 of group 1, a list of two items of group 1 and none of group 0 gives 1.
        """
        row, column = np.nonzero(items != MISS)
        groups = self.groups.take(items[row, column].astype(np.int64))
        pairs, counts = np.unique(_pairs(row, groups), return_counts=True)
        row, group = pairs >> _GROUP_BITS, pairs & ((1 << _GROUP_BITS) - 1)
        full = counts >= self.limit[group]
        return Ragged.of_pairs(row[full], group[full], len(items))

    def keep(self, items: NDArray[np.int32]) -> NDArray[np.int32]:
        """Lists ``[n, K]`` without the positions that break a rule: they become misses, and count in no group."""
        kept = np.where((items != MISS) & self.excluded[items], MISS, items).astype(np.int32)
        # Position by position: whether an item fits depends on which of the earlier ones were kept. The first always
        # does, as limits are at least 1.
        for position in range(1, kept.shape[1]):
            full = self.full(kept[:, :position])
            row = np.flatnonzero(kept[:, position] != MISS)
            pairs = _pairs(row, self.groups.take(kept[row, position].astype(np.int64)))
            many = np.isin(pairs, _pairs(np.arange(len(full)), full))
            kept[pairs[many] >> _GROUP_BITS, position] = MISS
        return kept

    def room(self, without: Ragged) -> NDArray[np.int64]:
        """``[n]`` items that fit a list at most, of those that are not in each of ``n`` rows (without repeats).

        Of an item's limited groups only the one with the lowest limit is looked at: never too small a number, so that
        no run is refused that could be done. (The exact one is a packing problem.) With 3 items of a group that is
        limited to 2, and 4 of none, 2 + 4 fit; without two of the three, 1 + 4.

        Args:
            without: catalog indices that a user's list may not hold, ``n`` rows.
        """
        none = len(self.limit)
        group = np.full(len(self.groups), none)
        limited = self.groups.lengths > 0
        # A row of groups ascends, and so do the limits by group: the first is the lowest. Items of no limited group
        # are one more group, number ``none``, whose limit is never reached.
        group[limited] = self.groups.flat[self.groups.offsets[:-1][limited]]
        limit = np.append(self.limit, len(group))
        held = np.bincount(group[~self.excluded], minlength=none + 1)
        row = np.repeat(np.arange(len(without)), without.lengths)
        counts = ~self.excluded[without.flat]
        pairs, gone = np.unique((row << _GROUP_BITS | group[without.flat])[counts], return_counts=True)
        row, group = pairs >> _GROUP_BITS, pairs & ((1 << _GROUP_BITS) - 1)
        lost = np.minimum(limit, held)[group] - np.minimum(limit[group], held[group] - gone)
        # Each (user, group) pair stands once, but a user may stand in several pairs: subtract.at adds these up.
        total = np.full(len(without), np.minimum(limit, held).sum())
        np.subtract.at(total, row, lost)
        return total


def make_rules(lists: ListSettings, catalog: Catalog) -> Rules | None:
    """The rules of the settings for a catalog, which excludes what is withdrawn; None where no list could break any.

    Raises:
        UserError: an item or a group that is not there; limits for groups where the catalog has none.
    """
    if lists.at_most and not catalog.n_groups:
        raise UserError("lists.at_most: the catalog has no groups (data.columns.groups)")
    excluded = np.zeros(len(catalog), dtype=bool) if catalog.withdrawn is None else catalog.withdrawn.copy()
    for items in named_items(lists.exclude, catalog, "lists.exclude"):
        excluded[items] = True
    # a limit of K says as much as any larger one, which may be larger than numpy's numbers
    most = np.full(catalog.n_groups, min(lists.at_most.get(EVERY, lists.k), lists.k), dtype=np.int64)
    for name, number in lists.at_most.items():
        if name != EVERY:
            most[group_number(name, catalog, "lists.at_most")] = min(number, lists.k)
    item, group = np.repeat(np.arange(len(catalog)), catalog.groups.lengths), catalog.groups.flat
    # A limit of 0 excludes; one of K or more no list can break.
    excluded[item[most[group] == 0]] = True
    limited = np.flatnonzero((most > 0) & (most < lists.k))
    limited = limited[np.argsort(most[limited], kind="stable")]  # ascending limits, which Rules.room relies on
    number_of = np.full(catalog.n_groups, -1)
    number_of[limited] = np.arange(len(limited))
    chosen = number_of[group] >= 0
    item, group = item[chosen], number_of[group[chosen]]
    order = np.argsort(group, kind="stable")
    rules = Rules(excluded, Ragged.of_pairs(item[order], group[order], len(catalog)), most[limited])
    return rules if excluded.any() or len(limited) else None


def load_rules(lists: ListSettings, catalog: Path) -> Rules | None:
    """As :func:`make_rules`, with the catalog in a folder."""
    return make_rules(lists, Catalog.load(catalog))


def _pairs(row: NDArray, groups: Ragged) -> NDArray[np.int64]:
    """One number for each (row, group) pair: the row in the high 32 bits, its group in the low ones."""
    pairs: NDArray[np.int64] = np.repeat(row, groups.lengths) << _GROUP_BITS | groups.flat
    return pairs
