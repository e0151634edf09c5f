"""Partitions to prompts: one pass over the partitions per split, a batch of prompts in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Ragged, ranges
from blade_dist.data.held_rows import HeldName
from blade_dist.data.sequences import UserSequences
from blade_dist.data.split import Batch, Views, cut, slices, windows
from blade_dist.settings import DataSettings

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
_BATCH = 65_536
"""Prompts that are made at once."""


class HeldOut(Protocol):
    """What is held out, and what is left to train on: :class:`SplitByRule`, :class:`SplitByRows`."""

    def parts(self) -> Iterator[tuple[UserSequences, NDArray[np.int64]]]:
        """Each partition, and how many items of each of its users are the training part."""
        ...

    def held_out(self, name: HeldName, size: int) -> Iterator[Batch]:
        """Prompts, at most ``size`` at once, in rows of the items table."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the card."""
        ...


class Assembler:
    """The prompts of each split, the training sequences and the items' popularity, in catalog indices.

    Args:
        settings: the ``data`` section.
        exclude_history: ``lists.exclude_history``: what no list may hold is no target.
        split: what is held out.
        counts: int64, how often each row of the items table is in the log or held out; the catalog is the rows above 0.
    """

    def __init__(
        self, settings: DataSettings, exclude_history: ExcludeHistory, split: HeldOut, counts: NDArray[np.int64]
    ) -> None:
        self._settings, self._exclude_history, self._split = settings, exclude_history, split
        self.kept_items: NDArray[np.int64] = np.flatnonzero(counts)
        """``[I]`` rows of the items table that make the catalog."""
        self._index = np.full(len(counts), -1, dtype=np.int32)
        self._index[self.kept_items] = np.arange(len(self.kept_items), dtype=np.int32)

    def popularity(self) -> NDArray[np.int64]:
        """``[I]`` interactions with each item in the training part."""
        total = np.zeros(len(self.kept_items), dtype=np.int64)
        for sequences, ends in self._split.parts():
            lengths = sequences.items.lengths
            trained = ranges(0, lengths) < np.repeat(ends, lengths)
            total += np.bincount(self._index[sequences.items.flat[trained]], minlength=len(total))
        return total

    def sequences(self) -> Iterator[tuple[pa.Array, Ragged]]:
        """Users and the items of their training part, where it has two or more, partition by partition."""
        for sequences, ends in self._split.parts():
            taught = np.flatnonzero(ends >= 2)  # one item has no next one
            items = slices(sequences.items.flat, sequences.items.offsets[taught], ends[taught])
            yield sequences.users.take(pa.array(taught)), self._indexed(items)

    def prompts(self, name: SplitName) -> Iterator[Batch]:
        """Users, histories, targets and what was seen before, of one split, batch after batch."""
        made = self._training() if name == "train" else self._split.held_out(name, _BATCH)
        for users, history, targets, seen in made:
            known = Views(self._index[seen.flat], seen.starts, seen.lengths)
            yield users, self._indexed(history), self._indexed(targets), known

    def _training(self) -> Iterator[Batch]:
        given = self._settings
        for sequences, ends in self._split.parts():
            positions = windows(ends, given.targets, given.min_history, given.windows)
            for start in range(0, len(positions), _BATCH):
                part = positions.part(start, start + _BATCH)
                yield cut(sequences, part, given.max_history, self._exclude_history)

    def _indexed(self, rows: Ragged) -> Ragged:
        return Ragged(self._index[rows.flat], rows.offsets)
