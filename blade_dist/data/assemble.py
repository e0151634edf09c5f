"""Partitions to prompts: one pass over the partitions per split, a batch of prompts in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Ragged, ranges
from blade_dist.data.partition import quantiles
from blade_dist.data.sequences import SequenceStore, UserSequences
from blade_dist.data.split import Positions, Split, Views, cut, global_time, leave_last, slices, windows
from blade_dist.settings import DataSettings

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_BATCH = 65_536
"""Prompts that are made at once."""


class Assembler:
    """The prompts of each split and the items' popularity, in catalog indices.

    Args:
        settings: the ``data`` section.
        exclude_history: ``lists.exclude_history``: what no list may hold is no target.
        store: the filtered sequences; not empty.
        counts: int64, interactions with each row of the items table; the catalog is the rows above 0.
    """

    def __init__(
        self,
        settings: DataSettings,
        exclude_history: ExcludeHistory,
        store: SequenceStore,
        counts: NDArray[np.int64],
    ) -> None:
        self._settings, self._exclude_history, self._store = settings, exclude_history, store
        self.kept_items: NDArray[np.int64] = np.flatnonzero(counts)
        """``[I]`` rows of the items table that make the catalog."""
        self._index = np.full(len(counts), -1, dtype=np.int32)
        self._index[self.kept_items] = np.arange(len(self.kept_items), dtype=np.int32)
        self.times: tuple[int, int] | None = None
        """``global_time``: t1 and t2."""
        if settings.split == "global_time":
            held_out = settings.validation_fraction + settings.test_fraction
            self.times = quantiles(store, (1 - held_out, 1 - settings.test_fraction))

    def popularity(self) -> NDArray[np.int64]:
        """``[I]`` interactions with each item in the training part."""
        total = np.zeros(len(self.kept_items), dtype=np.int64)
        for sequences, split in self._splits():
            lengths = sequences.items.lengths
            trained = ranges(0, lengths) < np.repeat(split.train_end, lengths)
            total += np.bincount(self._index[sequences.items.flat[trained]], minlength=len(total))
        return total

    def sequences(self) -> Iterator[tuple[pa.Array, Ragged]]:
        """Users and the items of their training part, where it has two or more, partition by partition."""
        for sequences, split in self._splits():
            taught = np.flatnonzero(split.train_end >= 2)  # one item has no next one
            items = slices(sequences.items.flat, sequences.items.offsets[taught], split.train_end[taught])
            yield sequences.users.take(pa.array(taught)), Ragged(self._index[items.flat], items.offsets)

    def prompts(self, name: SplitName) -> Iterator[tuple[pa.Array, Ragged, Ragged, Views]]:
        """Users, histories, targets and what was seen before, of one split, batch after batch."""
        for sequences, split in self._splits():
            positions = self._positions(split, name)
            for start in range(0, len(positions), _BATCH):
                part = positions.part(start, start + _BATCH)
                users, history, targets, seen = cut(sequences, part, self._settings.max_history, self._exclude_history)
                yield (
                    users,
                    Ragged(self._index[history.flat], history.offsets),
                    Ragged(self._index[targets.flat], targets.offsets),
                    Views(self._index[seen.flat], seen.starts, seen.lengths),
                )

    def _positions(self, split: Split, name: SplitName) -> Positions:
        if name == "validation":
            return split.validation
        if name == "test":
            return split.test
        given = self._settings
        return windows(split.train_end, given.targets, given.min_history, given.windows)

    def _splits(self) -> Iterator[tuple[UserSequences, Split]]:
        given = self._settings
        for partition in range(len(self._store)):
            sequences = self._store.load(partition)
            if self.times is None:
                lengths = sequences.items.lengths
                yield sequences, leave_last(lengths, given.targets, given.min_history, given.test_windows)
            else:
                yield (
                    sequences,
                    global_time(sequences.items, sequences.times, *self.times, given.targets, given.min_history),
                )
