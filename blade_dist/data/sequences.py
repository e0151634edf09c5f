"""Each user's items in order: the log after reading, in one Arrow file per partition of users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Ragged, offsets_of
from blade_dist.store.arrow import arrow_to_ragged, ragged_to_arrow, read_table, write_table


@dataclass(frozen=True, eq=False)
class UserSequences:
    """``U`` users."""

    users: pa.Array
    """``[U]`` string: user ids."""
    items: Ragged
    """``U`` rows, int32: rows of the items table, oldest first, none twice."""
    times: NDArray[np.int64]
    """Time of each of ``items.flat``; never falls within a user."""

    def __len__(self) -> int:
        return len(self.users)

    def keep(self, mask: NDArray[np.bool_]) -> UserSequences:
        """Only the interactions (of ``items.flat``) where the mask holds; users left without any are dropped."""
        # Interactions that stay before each user's first: its differences are what stays of each user.
        kept = offsets_of(mask)[self.items.offsets]
        stay = np.diff(kept) > 0
        offsets = np.concatenate([[0], kept[1:][stay]]).astype(np.int64)
        return UserSequences(
            self.users.filter(pa.array(stay)), Ragged(self.items.flat[mask], offsets), self.times[mask]
        )


def build_sequences(table: pa.Table) -> tuple[UserSequences, int]:
    """Sorts interactions (``user``, ``item`` as int32, ``time``) by user and time; equal times keep their order.

    Returns:
        The sequences, users in the order of their first row; how many repeats of a (user, item) pair were dropped:
        the first in time stays.
    """
    encoded = table.column("user").combine_chunks().dictionary_encode()
    users, codes = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
    items, times = table.column("item").to_numpy(), table.column("time").to_numpy()
    order = np.lexsort((times, codes))  # by user, then by time; stable, so equal times keep the log's order
    codes, items, times = codes[order], items[order], times[order]
    # One number for each (user, item) pair. np.unique gives the place of its first row, which is its first in time,
    # in the order of the pairs; sorting the places restores the order of users and times.
    width = int(items.max(initial=0)) + 1
    first = np.sort(np.unique(codes * width + items, return_index=True)[1])
    lengths = np.bincount(codes[first], minlength=len(users))
    offsets = offsets_of(lengths)
    return UserSequences(users, Ragged(items[first].astype(np.int32), offsets), times[first]), len(order) - len(first)


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
