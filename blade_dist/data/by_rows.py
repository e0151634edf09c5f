"""What is held out by a ready split: its rows are the prompts, and the log before them is trained on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.data.held_rows import HeldName, HeldRows, last
from blade_dist.data.sequences import Repeats, SequenceStore, UserSequences
from blade_dist.data.split import Batch, Views
from blade_dist.errors import UserError


class SplitByRows:
    """``data.splits``.

    A user's training part ends before the first of the user's held-out items. A log that does not have them is all
    training part, and so are users of whom nothing is held out.

    Args:
        rows: the rows of each split.
        store: the log's sequences.
        repeats: ``data.repeats``, which made these sequences.
        max_history: items of a history that are shown.
        unread: rows of the file to train with, which are not read.

    Raises:
        UserError: a row's user is not in the log.
    """

    def __init__(
        self,
        rows: Mapping[HeldName, HeldRows],
        store: SequenceStore,
        repeats: Repeats,
        max_history: int,
        unread: int = 0,
    ) -> None:
        self._rows, self._store, self._repeats, self._max_history = rows, store, repeats, max_history
        self._unread = unread
        self._before: dict[HeldName, NDArray[np.int64]] = {name: np.full(len(of), _NEVER) for name, of in rows.items()}
        known = {name: np.zeros(len(of), dtype=bool) for name, of in rows.items()}
        self._ends = [self._look(store.load(partition), known) for partition in range(len(store))]
        for name, of in rows.items():
            if (unknown := np.flatnonzero(~known[name])).size:
                row = unknown[0]
                raise UserError(
                    f"{of.where(row)}: user {of.users[int(row)].as_py()!r} has no interaction in the log (data.path); "
                    "leave the row out"
                )

    def parts(self) -> Iterator[tuple[UserSequences, NDArray[np.int64]]]:
        """Each partition, and how many items of each of its users are the training part."""
        for partition, ends in enumerate(self._ends):
            yield self._store.load(partition), ends

    def held_out(self, name: HeldName, size: int) -> Iterator[Batch]:
        """Prompts, at most ``size`` at once, in the file's order, in rows of the items table."""
        for start in range(0, len(self._rows[name]), size):
            users, whole, targets = self._rows[name].part(start, start + size)
            yield users, last(whole, self._max_history), targets, Views.of(whole.distinct())

    def describe(self) -> dict[str, Any]:
        """For the card: rows that are not read; test rows that are earlier than what is trained on, where there are
        times."""
        times = self._rows["test"].times
        if times is None:
            return {"train_rows_not_read": self._unread}
        own = int((times < self._before["test"]).sum())
        newest = max((_last_times(*part).max(initial=_NEVER) for part in self.parts()), default=_NEVER)
        before = {"test_before_own_training": own, "test_before_any_training": int((times < newest).sum())}
        return {"train_rows_not_read": self._unread} | before

    def _look(self, sequences: UserSequences, known: dict[HeldName, NDArray[np.bool_]]) -> NDArray[np.int64]:
        """Training ends of one partition; notes which rows' users are in it, and the time of their last training
        item."""
        at = {name: pc.index_in(of.users, value_set=sequences.users).fill_null(-1) for name, of in self._rows.items()}
        users = {name: index.to_numpy().astype(np.int64) for name, index in at.items()}
        ends = sequences.items.lengths.copy()
        for name, of in self._rows.items():
            owner = np.repeat(users[name], of.targets.lengths)
            here = owner >= 0
            # Of an item that was had before, the held-out one is the next that the log has: with all repeats the one
            # after as many as the history holds, with the first alone none, and with the last alone perhaps that one.
            nth = np.zeros_like(of.had) if self._repeats == "last" else of.had
            user, place = _places(sequences, owner[here], of.targets.flat[here], nth[here])
            np.minimum.at(ends, user, place)
        times = _last_times(sequences, ends)
        for name, user in users.items():
            here = user >= 0
            known[name] |= here
            self._before[name][here] = times[user[here]]
        return ends


_NEVER = np.iinfo(np.int64).min


def _last_times(sequences: UserSequences, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[U]`` time of each user's last training item."""
    times = np.full(len(ends), _NEVER)
    some = ends > 0
    times[some] = sequences.times[(sequences.items.offsets[:-1] + ends - 1)[some]]
    return times


def _places(
    sequences: UserSequences, user: NDArray[np.int64], item: NDArray[np.int32], nth: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each user has the item for the ``nth`` time, from 0: users and places of those that are there.

    Pairs of user and item are numbers; sorted, equal ones stand together, oldest first. Of ``a b a`` the sorted places
    are 0 2 | 1, and ``a`` for the time 1 is at 2.
    """
    items = sequences.items
    width = 1 + max(int(items.flat.max(initial=0)), int(item.max(initial=0)))
    pairs = np.repeat(np.arange(len(sequences)), items.lengths) * width + items.flat
    order = np.argsort(pairs, kind="stable")
    wanted = user * width + item
    at = np.searchsorted(pairs, wanted, sorter=order) + nth
    there = at < np.searchsorted(pairs, wanted, side="right", sorter=order)
    return user[there], order[at[there]] - items.offsets[user[there]]
