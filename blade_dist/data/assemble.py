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
from blade_dist.data.split import Batch, Positions, Views, cut, kept_back, one_each, slices, windows
from blade_dist.settings import DataSettings, PromptsFrom

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
Source = Literal["train", "held_out"]
"""Of training prompts: places of what is fine-tuned on; an item of each user that is kept from it."""
SOURCES: dict[PromptsFrom, tuple[Source, ...]] = {
    "train": ("train",),
    "held_out": ("held_out",),
    "all": ("train", "held_out"),
}
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
        prompts_from: ``train.prompts_from``.
    """

    def __init__(
        self,
        settings: DataSettings,
        exclude_history: ExcludeHistory,
        split: HeldOut,
        counts: NDArray[np.int64],
        prompts_from: PromptsFrom,
    ) -> None:
        self._settings, self._exclude_history, self._split = settings, exclude_history, split
        self.sources = SOURCES[prompts_from]
        """Of the training prompts, in the order in which they stand in the table."""
        self.kept_items: NDArray[np.int64] = np.flatnonzero(counts)
        """``[I]`` rows of the items table that make the catalog."""
        self._index = np.full(len(counts), -1, dtype=np.int32)
        self._index[self.kept_items] = np.arange(len(self.kept_items), dtype=np.int32)

    def popularity(self) -> NDArray[np.int64]:
        """``[I]`` interactions with each item in what is fine-tuned on."""
        total = np.zeros(len(self.kept_items), dtype=np.int64)
        for sequences, ends in self._split.parts():
            lengths = sequences.items.lengths
            trained = ranges(0, lengths) < np.repeat(self._fitted(ends), lengths)
            total += np.bincount(self._index[sequences.items.flat[trained]], minlength=len(total))
        return total

    def sequences(self) -> Iterator[tuple[pa.Array, Ragged]]:
        """Users and what is fine-tuned on of their training part, where it has two items or more, by partition."""
        for sequences, whole in self._split.parts():
            ends = self._fitted(whole)
            taught = np.flatnonzero(ends >= 2)  # one item has no next one
            items = slices(sequences.items.flat, sequences.items.offsets[taught], ends[taught])
            yield sequences.users.take(pa.array(taught)), self._indexed(items)

    def held_out(self, name: HeldName) -> Iterator[Batch]:
        """Users, histories, targets and what was seen before, of one split, batch after batch."""
        return self._in_catalog(self._split.held_out(name, _BATCH))

    def training(self, source: Source) -> Iterator[Batch]:
        """As :meth:`held_out`, of training prompts of one of the sources."""
        return self._in_catalog(self._training(source))

    def _in_catalog(self, made: Iterator[Batch]) -> Iterator[Batch]:
        for users, history, targets, seen in made:
            known = Views(self._index[seen.flat], seen.starts, seen.lengths)
            yield users, self._indexed(history), self._indexed(targets), known

    def _fitted(self, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[U]`` items of each user's training part, from its beginning, that are fine-tuned on."""
        return ends - kept_back(ends, self._settings.min_history) if "held_out" in self.sources else ends

    def _positions(self, ends: NDArray[np.int64], source: Source) -> Positions:
        given = self._settings
        if source == "train":
            return windows(self._fitted(ends), given.targets, given.min_history, given.windows)
        return one_each(kept_back(ends, given.min_history), ends - 1, np.ones_like(ends))

    def _training(self, source: Source) -> Iterator[Batch]:
        given = self._settings
        for sequences, ends in self._split.parts():
            positions = self._positions(ends, source)
            for start in range(0, len(positions), _BATCH):
                part = positions.part(start, start + _BATCH)
                yield cut(sequences, part, given.max_history, self._exclude_history)

    def _indexed(self, rows: Ragged) -> Ragged:
        return Ragged(self._index[rows.flat], rows.offsets)
