"""Each user's items in order: the log after reading, in one Arrow file per partition of users."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.store.arrow import arrow_to_ragged, ragged_to_arrow, read_table, write_table

Repeats = Literal["first", "last", "all"]
"""``data.repeats``."""


@dataclass(frozen=True, eq=False)
class UserSequences:
    """``U`` users."""

    users: pa.Array
    """``[U]`` string: user ids."""
    items: Ragged
    """``U`` rows, int32: rows of the items table, oldest first; an item stands twice in a row with ``repeats: all``."""
    times: NDArray[np.int64]
    """Time of each of ``items.flat``; never falls within a user."""

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def previous(self) -> NDArray[np.int64]:
        """For each of ``items.flat``: the place, from 0 within the user, where the user had the item last; -1: nowhere.

        ``a b a a`` gives ``-1 -1 0 2``.
        """
        lengths = self.items.lengths
        row = np.repeat(np.arange(len(self)), lengths)
        pair = row * (int(self.items.flat.max(initial=0)) + 1) + self.items.flat
        order = np.argsort(pair, kind="stable")  # equal pairs stand together, oldest first
        again = np.flatnonzero(pair[order[1:]] == pair[order[:-1]])
        previous = np.full(len(pair), -1, dtype=np.int64)
        previous[order[again + 1]] = ranges(0, lengths)[order[again]]
        return previous

    @cached_property
    def new_items(self) -> NDArray[np.int32]:
        """``items.flat`` without what the user had before: what a user has seen is a beginning of the user's part."""
        return self.items.flat[self.previous < 0]

    @cached_property
    def new_before(self) -> NDArray[np.int64]:
        """How many of :attr:`new_items` come before each of ``items.flat``, and of all of them."""
        return offsets_of(self.previous < 0)

    def keep(self, mask: NDArray[np.bool_]) -> UserSequences:
        """Only the interactions (of ``items.flat``) where the mask holds; users left without any are dropped."""
        # Interactions that stay before each user's first: its differences are what stays of each user.
        kept = offsets_of(mask)[self.items.offsets]
        stay = np.diff(kept) > 0
        offsets = np.concatenate([[0], kept[1:][stay]]).astype(np.int64)
        return UserSequences(
            self.users.filter(pa.array(stay)), Ragged(self.items.flat[mask], offsets), self.times[mask]
        )


def build_sequences(table: pa.Table, repeats: Repeats) -> tuple[UserSequences, int]:
    """Sorts interactions (``user``, ``item`` as int32, ``time``) by user and time; equal times keep their order.

    Args:
        table: the interactions.
        repeats: which interactions of a (user, item) pair stay: the first in time, the last, or all.

    Returns:
        The sequences, users in the order of their first row; how many interactions were dropped as repeats.
    """
    encoded = table.column("user").combine_chunks().dictionary_encode()
    users, codes = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
    items, times = table.column("item").to_numpy(), table.column("time").to_numpy()
    order = np.lexsort((times, codes))  # by user, then by time; stable, so equal times keep the log's order
    codes, items, times = codes[order], items[order], times[order]
    kept = _kept(codes * (int(items.max(initial=0)) + 1) + items, repeats)
    offsets = offsets_of(np.bincount(codes[kept], minlength=len(users)))
    return UserSequences(users, Ragged(items[kept].astype(np.int32), offsets), times[kept]), len(order) - len(kept)


def _kept(pairs: NDArray[np.int64], repeats: Repeats) -> NDArray[np.int64]:
    """Places that stay; ``pairs``: one number for each (user, item), in the order of users and times."""
    if repeats == "all":
        return np.arange(len(pairs))
    # np.unique gives the place of a pair's first row, in the order of the pairs; sorting the places restores the order.
    if repeats == "first":
        return np.sort(np.unique(pairs, return_index=True)[1])
    return np.sort(len(pairs) - 1 - np.unique(pairs[::-1], return_index=True)[1])


class SequenceStore:
    """The partitions; one is in memory at a time."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._folder, self._partitions = folder, partitions

    def __len__(self) -> int:
        return self._partitions

    def save(self, partition: int, sequences: UserSequences) -> None:
        """Writes one partition, atomically."""
        times = Ragged(sequences.times, sequences.items.offsets)
        columns = {"user": sequences.users, "items": ragged_to_arrow(sequences.items), "times": ragged_to_arrow(times)}
        write_table(pa.table(columns), self._path(partition))

    def copied(self, folder: Path) -> SequenceStore:
        """The same partitions in another, new folder; changes of the one do not touch the other."""
        folder.mkdir()
        copy = SequenceStore(folder, self._partitions)
        for partition in range(self._partitions):
            # a partition is replaced as a whole, never written to: the two may share a file until then
            os.link(self._path(partition), copy._path(partition))
        return copy

    def load(self, partition: int) -> UserSequences:
        """One partition, memory-mapped."""
        table = read_table(self._path(partition)).combine_chunks()
        users = table.column("user")
        return UserSequences(
            users.chunk(0) if users.num_chunks else pa.array([], pa.string()),
            arrow_to_ragged(table.column("items")),
            arrow_to_ragged(table.column("times")).flat,
        )

    def _path(self, partition: int) -> Path:
        return self._folder / f"sequences-{partition:05d}.arrow"


def item_counts(sequences: UserSequences, n_items: int) -> NDArray[np.int64]:
    """int64 ``[n_items]``: interactions with each item."""
    return np.bincount(sequences.items.flat, minlength=n_items)


def k_core(store: SequenceStore, k: int, n_items: int) -> NDArray[np.int64]:
    """Drops items and users with fewer than ``k`` interactions until none is left to drop.

    An item that falls below ``k`` can take a user below it, who takes other items with them: hence the repetition.
    Item counts are over all partitions, so that the result does not depend on how the users were partitioned.

    Returns:
        int64 ``[n_items]``: interactions with each item that stay.
    """
    counts = sum((item_counts(store.load(p), n_items) for p in range(len(store))), np.zeros(n_items, np.int64))
    dropped = True
    while dropped:
        dropped, after = False, np.zeros(n_items, np.int64)
        for partition in range(len(store)):
            before = store.load(partition)
            kept = before.keep(counts[before.items.flat] >= k)
            kept = kept.keep(np.repeat(kept.items.lengths >= k, kept.items.lengths))
            if len(kept.times) < len(before.times):
                dropped = True
                store.save(partition, kept)
            after += item_counts(kept, n_items)
        counts = after
    return counts
