"""Which part of a user's sequence is history, which is held out. Pure; positions count from 0 within a user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Ragged, offsets_of, ranges
from blade_dist.data.sequences import UserSequences


@dataclass(frozen=True, eq=False)
class Positions:
    """``P`` prompts: the history is what stands before ``at``, the targets are the ``count`` items from there."""

    user: NDArray[np.int64]
    """``[P]`` row in the sequences."""
    at: NDArray[np.int64]
    """``[P]`` position of the first target."""
    count: NDArray[np.int64]
    """``[P]`` targets."""

    def __len__(self) -> int:
        return len(self.user)

    def part(self, start: int, stop: int) -> Positions:
        """Prompts ``start`` to ``stop``."""
        return Positions(self.user[start:stop], self.at[start:stop], self.count[start:stop])


@dataclass(frozen=True, eq=False)
class Split:
    """One partition's three parts."""

    train_end: NDArray[np.int64]
    """``[U]``: the items before it are the user's training part."""
    validation: Positions
    test: Positions


def leave_last(lengths: NDArray[np.int64], targets: int, min_history: int, held_out: int = 1) -> Split:
    """Each user's last ``held_out * targets`` items are test, in windows of ``targets``; those before are validation.

    A window's history is all that comes before it, earlier windows' items too, as it is at serving time; a window is
    nobody's training. At least ``max(min_history, 2)`` items stay to train on, so that every user has a next item to
    learn from. A user who is too short for so many windows has fewer; one too short for a validation window beside the
    test window has no validation; one too short for a whole test window has windows of a third of what is above those
    that stay, at least one item; and one too short for that trains only. With ``targets`` 1 and ``min_history`` 1 this
    is leave-one-out: the last item is test, the one before it validation.

    Items from 0 on, ``min_history`` 1::

        10 items, targets 2, held_out 1   training 0 to 5   validation 6 7   test 8 9
        10 items, targets 2, held_out 2   training 0 to 3   validation 4 5   test 6 7 and 8 9
         8 items, targets 5, held_out 1   training 0 1 2                     test 3 to 7
         6 items, targets 5, held_out 1   training 0 to 3   validation 4     test 5
         3 items, targets 5, held_out 1   training 0 1                       test 2

    Args:
        lengths: int64 ``[U]`` items of each user.
        targets: items that a prompt holds out, at most.
        min_history: least length of a history.
        held_out: test windows per user, at most.
    """
    spare = lengths - max(min_history, 2)
    size = np.where(spare >= targets, targets, np.maximum(1, spare // 3))
    # As many as fit into what is spare, less one for validation.
    windows = np.clip(spare // size - 1, 1, held_out)
    test_at = lengths - windows * size
    tested = spare >= windows * size
    validation_at = test_at - size
    validated = spare >= (windows + 1) * size
    train_end = np.where(validated, validation_at, np.where(tested, test_at, lengths))
    first = one_each(tested, test_at, size)
    return Split(train_end, one_each(validated, validation_at, size), _follow(first, windows[tested]))


def global_time(items: Ragged, times: NDArray[np.int64], t1: int, t2: int, targets: int, min_history: int) -> Split:
    """Training is what lies before ``t1``, validation each user's next items in ``[t1, t2)``, test those from ``t2``.

    Up to ``targets`` items are held out, at least one. The two points in time are the same for all users: nothing
    that is trained on happened after anything that is held out, as it does where each user is split by itself.

    Args:
        items: ``U`` rows, oldest first.
        times: time of each of ``items.flat``, in the log's unit; never falls within a row.
        t1: first time of validation.
        t2: first time of test.
        targets: items that a prompt holds out, at most.
        min_history: least length of a history.
    """
    first, second, lengths = _before(items, times, t1), _before(items, times, t2), items.lengths
    validated = (first >= min_history) & (second > first)
    tested = (second >= min_history) & (lengths > second)
    return Split(
        train_end=first,
        validation=one_each(validated, first, np.minimum(second - first, targets)),
        test=one_each(tested, second, np.minimum(lengths - second, targets)),
    )


def windows(train_end: NDArray[np.int64], targets: int, min_history: int, latest: int) -> Positions:
    """Training prompts: every position whose history and ``targets`` items lie in the training part.

    A training part of 5 items, ``targets`` 2, ``min_history`` 1: targets begin at 1, 2 and 3; with ``latest`` 2, at 2
    and 3. A part that is too short for one such prompt gives one at ``min_history``, with what follows: of 3 items
    with ``targets`` 5, the items 1 and 2 follow item 0.

    Args:
        train_end: ``[U]`` length of each user's training part.
        targets: items after the history, at most.
        min_history: least length of a history.
        latest: prompts per user, the latest ones; 0 is all.
    """
    size = np.minimum(targets, train_end - min_history)  # below 1: nothing follows a history
    there = np.where(size > 0, train_end - size - min_history + 1, 0)
    count = there if latest == 0 else np.minimum(there, latest)
    user = np.repeat(np.arange(len(train_end)), count)
    at = (train_end - size - count + 1)[user] + ranges(0, count)
    return Positions(user, at, size[user])


def kept_back(train_end: NDArray[np.int64], min_history: int) -> NDArray[np.bool_]:
    """``[U]`` whether a user's last training item may be kept from fine-tuning, to be asked for in the alignment.

    At least ``max(min_history, 2)`` items stay before it, as :func:`leave_last` leaves: others train on all of theirs.
    """
    return train_end > max(min_history, 2)


@dataclass(frozen=True, eq=False)
class Views:
    """Rows that may overlap: row ``i`` is ``flat[starts[i] : starts[i] + lengths[i]]``.

    What a user saw before each of ``n`` training prompts is ``n`` beginnings of one sequence: as views they take the
    sequence once, on disk too (an Arrow list-view); as copies they would take about n / 2 times as much.
    """

    flat: NDArray
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Ragged) -> Views:
        """Rows that share nothing."""
        return cls(rows.flat, rows.offsets[:-1], rows.lengths)

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The given rows, in the given order, each by itself."""
        return slices(self.flat, self.starts[rows], self.lengths[rows])


Batch = tuple[pa.Array, Ragged, Ragged, Views]
"""Prompts: user ids, histories, targets, and all different items before the targets, which a user's prompts share."""


def cut(sequences: UserSequences, positions: Positions, max_history: int, exclude_history: ExcludeHistory) -> Batch:
    """Prompts in rows of the items table; those without a target left are not made.

    Returns:
        User ids; histories (the last ``max_history`` items); targets, none twice and none that ``exclude_history``
        forbids a list to hold; all different items before the targets, which a user's prompts share.
    """
    asked, targets = _targets(sequences, positions, max_history, exclude_history)
    items, user, at = sequences.items, positions.user[asked], positions.at[asked]
    start = items.offsets[user]
    length = np.minimum(at, max_history)
    history = slices(items.flat, start + at - length, length)
    begin, end = sequences.new_before[start], sequences.new_before[start + at]
    # Only the stretch that these prompts look at: a batch that is written carries all values that its views share.
    first, last = begin.min(initial=len(sequences.new_items)), end.max(initial=0)
    seen = Views(sequences.new_items[first:last], begin - first, end - begin)
    return sequences.users.take(pa.array(user)), history, targets, seen


def _targets(
    sequences: UserSequences, positions: Positions, max_history: int, exclude_history: ExcludeHistory
) -> tuple[NDArray[np.int64], Ragged]:
    """Which prompts have a target left, and their targets.

    An item is none where the user had it since a certain place: since the first one (``exclude_history: true``), since
    what is shown begins, or (false) among the targets before it. Of ``a b c | a b`` with one item shown, the targets
    are none, ``a b`` and ``a b``; of ``a b c | d d`` always ``d``.
    """
    at = positions.at
    since = {True: np.zeros_like(at), "shown": np.maximum(at - max_history, 0), False: at}[exclude_history]
    place = ranges(sequences.items.offsets[positions.user] + at, positions.count)
    free = sequences.previous[place] < np.repeat(since, positions.count)
    left = np.diff(offsets_of(free)[offsets_of(positions.count)])
    asked = np.flatnonzero(left)
    return asked, Ragged(sequences.items.flat[place[free]], offsets_of(left[asked]))


def slices(flat: NDArray, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Ragged:
    """Row ``i`` is ``flat[starts[i] : starts[i] + lengths[i]]``; rows may overlap."""
    return Ragged(flat[ranges(starts, lengths)], offsets_of(lengths))


def one_each(chosen: NDArray[np.bool_], at: NDArray[np.int64], count: NDArray[np.int64]) -> Positions:
    """A prompt for each of the users that are chosen (``[U]``), from ``at[U]`` on, with ``count[U]`` targets."""
    user = np.flatnonzero(chosen)
    return Positions(user, at[user], count[user])


def _follow(first: Positions, windows: NDArray[np.int64]) -> Positions:
    """Each prompt, and the windows that follow it without a gap."""
    user, at, count = (np.repeat(part, windows) for part in (first.user, first.at, first.count))
    return Positions(user, at + ranges(0, windows) * count, count)


def _before(items: Ragged, times: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """``[U]``: each user's interactions with a time below ``limit``."""
    return np.diff(offsets_of(times < limit)[items.offsets])
