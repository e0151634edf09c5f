"""What is held out by a rule: the last items of each user, or what lies behind a point in time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory
from blade_dist.data.held_rows import HeldName
from blade_dist.data.partition import quantiles
from blade_dist.data.sequences import SequenceStore, UserSequences
from blade_dist.data.split import Batch, Split, cut, global_time, leave_last
from blade_dist.settings import DataSettings


class SplitByRule:
    """``data.split``.

    Args:
        settings: the ``data`` section.
        exclude_history: ``lists.exclude_history``: what no list may hold is no target.
        store: the filtered sequences; not empty.
    """

    def __init__(self, settings: DataSettings, exclude_history: ExcludeHistory, store: SequenceStore) -> None:
        self._settings, self._exclude_history, self._store = settings, exclude_history, store
        self.times: tuple[int, int] | None = None
        """``global_time``: t1 and t2."""
        if settings.split == "global_time":
            held_out = settings.validation_fraction + settings.test_fraction
            self.times = quantiles(store, (1 - held_out, 1 - settings.test_fraction))

    def parts(self) -> Iterator[tuple[UserSequences, NDArray[np.int64]]]:
        """Each partition, and how many items of each of its users are the training part."""
        for sequences, split in self._splits():
            yield sequences, split.train_end

    def held_out(self, name: HeldName, size: int) -> Iterator[Batch]:
        """Prompts, at most ``size`` at once, in rows of the items table."""
        for sequences, split in self._splits():
            positions = split.validation if name == "validation" else split.test
            for start in range(0, len(positions), size):
                part = positions.part(start, start + size)
                yield cut(sequences, part, self._settings.max_history, self._exclude_history)

    def describe(self) -> dict[str, Any]:
        """For the card."""
        return {"global_time": self.times and dict(zip(("t1", "t2"), self.times, strict=True))}

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
