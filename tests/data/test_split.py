"""Splits: no leakage, and the windows are the definition."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import ExcludeHistory, Ragged
from blade_dist.data.sequences import UserSequences
from blade_dist.data.split import Positions, Split, cut, global_time, leave_last, slices, windows

ROWS = st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=14).map(sorted), min_size=1, max_size=5)
SIZE = st.integers(1, 4)


def _sequences(rows: list[list[int]]) -> UserSequences:
    """Users with the given times; item numbers are unique over all users, so that an item tells its place."""
    offsets = Ragged.of(rows).offsets
    items = np.arange(offsets[-1], dtype=np.int32)
    return UserSequences(
        pa.array([f"u{n}" for n in range(len(rows))]), Ragged(items, offsets), Ragged.of(rows, np.int64).flat
    )


def _prompts(
    sequences: UserSequences, positions: Positions, max_history: int
) -> list[tuple[str, list[int], list[int]]]:
    users, history, targets, views = cut(sequences, positions, max_history, True)
    seen = views.take(np.arange(len(positions)))
    for n, (row, at) in enumerate(zip(positions.user, positions.at, strict=True)):
        assert seen[n].tolist() == sequences.items[row][:at].tolist()
    return [(u, history[n].tolist(), targets[n].tolist()) for n, u in enumerate(users.to_pylist())]


def _check_training(sequences: UserSequences, split: Split, targets: int, least: int, latest: int, most: int) -> None:
    expected = []
    for row, end in enumerate(split.train_end):
        part = sequences.items[row][:end].tolist()
        at = [p for p in range(least, len(part) + 1) if p + targets <= len(part)]
        if not at and len(part) > least:
            at = [least]  # with what follows
        expected += [
            (f"u{row}", part[max(0, p - most) : p], part[p : p + targets]) for p in (at[-latest:] if latest else at)
        ]
    assert _prompts(sequences, windows(split.train_end, targets, least, latest), most) == expected


@given(ROWS, SIZE, SIZE, st.integers(0, 4), SIZE)
def test_leave_last_holds_out_the_ends(rows: list[list[int]], targets: int, least: int, latest: int, most: int) -> None:
    sequences = _sequences(rows)
    split = leave_last(sequences.items.lengths, targets, least)
    test, validation, floor = {}, {}, max(least, 2)
    for row in range(len(rows)):
        whole = sequences.items[row].tolist()
        size = targets if len(whole) >= floor + targets else max(1, (len(whole) - floor) // 3)
        if len(whole) >= floor + size:
            test[f"u{row}"] = (whole[:-size][-most:], whole[-size:])
        if len(whole) >= floor + 2 * size:
            held = whole[:-size]
            validation[f"u{row}"] = (held[:-size][-most:], held[-size:])
    assert {u: (h, t) for u, h, t in _prompts(sequences, split.test, most)} == test
    assert {u: (h, t) for u, h, t in _prompts(sequences, split.validation, most)} == validation
    _check_no_held_out_item_in_training(sequences, split)
    _check_training(sequences, split, targets, least, latest, most)


@given(ROWS, SIZE, SIZE, SIZE)
def test_windows_of_the_test_part_follow_each_other(rows: list[list[int]], targets: int, least: int, most: int) -> None:
    """They end with the user's last item; no training or validation item is among them."""
    sequences, floor = _sequences(rows), max(least, 2)
    split = leave_last(sequences.items.lengths, targets, least, most)
    for row, items in enumerate(rows):
        length, own = len(items), split.test.user == row
        size = targets if length >= floor + targets else max(1, (length - floor) // 3)
        fits = [n for n in range(1, most + 1) if length - (n + 1) * size >= floor]
        windows = max(fits, default=int(length >= floor + size))
        assert split.test.at[own].tolist() == [length - n * size for n in range(windows, 0, -1)]
        assert split.test.count[own].tolist() == [size] * windows
        assert (row in split.validation.user) == bool(fits)
    _check_no_held_out_item_in_training(sequences, split)


@given(ROWS, SIZE, SIZE, SIZE)
def test_every_user_of_leave_last_teaches(rows: list[list[int]], targets: int, least: int, most: int) -> None:
    """At least two items stay, or all where there are no more; what stays is as long as the shortest history."""
    lengths = _sequences(rows).items.lengths
    split = leave_last(lengths, targets, least, most)
    assert (split.train_end >= np.minimum(lengths, max(least, 2))).all()


def test_one_target_and_one_item_of_history_is_leave_one_out() -> None:
    """The protocol of the published tables: train on items 1 to n - 2, validate on item n - 1, test on item n."""
    sequences = _sequences([[0] * n for n in (7, 5, 4, 3)])  # items 0 to 6, 7 to 11, 12 to 15, 16 to 18
    split = leave_last(sequences.items.lengths, 1, 1)
    assert [sequences.items[row][:end].tolist() for row, end in enumerate(split.train_end)] == [
        [0, 1, 2, 3, 4],
        [7, 8, 9],
        [12, 13],
        [16, 17],  # no validation: a single item has no next one to learn from
    ]
    assert _prompts(sequences, split.validation, 20) == [
        ("u0", [0, 1, 2, 3, 4], [5]),
        ("u1", [7, 8, 9], [10]),
        ("u2", [12, 13], [14]),
    ]
    assert _prompts(sequences, split.test, 20) == [
        ("u0", [0, 1, 2, 3, 4, 5], [6]),
        ("u1", [7, 8, 9, 10], [11]),
        ("u2", [12, 13, 14], [15]),
        ("u3", [16, 17], [18]),
    ]
    assert _prompts(sequences, windows(split.train_end[1:], 1, 1, 0), 20)[:2] == [
        ("u0", [0], [1]),
        ("u0", [0, 1], [2]),
    ]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(10, (6, [6, 7], [8, 9])), (8, (4, [4, 5], [6, 7])), (5, (3, [], [3, 4])), (3, (2, [], [2])), (2, (2, [], []))],
)
def test_short_users_hold_out_less(length: int, expected: tuple[int, list[int], list[int]]) -> None:
    split = leave_last(np.array([length]), 2, 1)
    held = [[at + n for at, count in zip(p.at, p.count, strict=True) for n in range(count)]
            for p in (split.validation, split.test)]  # fmt: skip
    assert (split.train_end.item(), *held) == expected


@given(ROWS, SIZE, SIZE, st.integers(0, 4), SIZE, st.integers(0, 20), st.integers(0, 20))
def test_global_time_never_looks_ahead(
    rows: list[list[int]], targets: int, least: int, latest: int, most: int, first: int, second: int
) -> None:
    t1, t2 = sorted([first, second])
    sequences = _sequences(rows)
    split = global_time(sequences.items, sequences.times, t1, t2, targets, least)
    time = sequences.times
    for positions, start, stop in ((split.validation, t1, t2), (split.test, t2, np.inf)):
        expected = {}
        for row in range(len(rows)):
            whole = sequences.items[row]
            history, held = whole[time[whole] < start], whole[(time[whole] >= start) & (time[whole] < stop)]
            if len(history) >= least and len(held):
                expected[f"u{row}"] = (history[-most:].tolist(), held[:targets].tolist())
        assert {u: (h, t) for u, h, t in _prompts(sequences, positions, most)} == expected
    trained = np.concatenate([sequences.items[row][:end] for row, end in enumerate(split.train_end)])
    assert (time[trained] < t1).all()
    _check_no_held_out_item_in_training(sequences, split)
    _check_training(sequences, split, targets, least, latest, most)


def _check_no_held_out_item_in_training(sequences: UserSequences, split: Split) -> None:
    trained = {int(item) for row, end in enumerate(split.train_end) for item in sequences.items[row][:end]}
    for positions in (split.validation, split.test):
        held = {item for _, _, targets in _prompts(sequences, positions, 1) for item in targets}
        assert not held & trained


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=10), min_size=1, max_size=4),
    st.sampled_from([True, "shown", False]), SIZE, SIZE, SIZE,
)  # fmt: skip
def test_repeats_are_targets_only_where_a_list_may_hold_them(
    rows: list[list[int]], exclude: ExcludeHistory, targets: int, least: int, most: int
) -> None:
    sequences = UserSequences(
        pa.array([f"u{n}" for n in range(len(rows))]), Ragged.of(rows), np.arange(sum(map(len, rows)))
    )
    positions = windows(sequences.items.lengths, targets, least, 0)
    expected = []
    for row, at, count in zip(positions.user, positions.at, positions.count, strict=True):
        seen, shown = rows[row][:at], rows[row][:at][-most:]
        forbidden = {True: seen, "shown": shown, False: []}[exclude]
        held = [item for item in dict.fromkeys(rows[row][at : at + count]) if item not in forbidden]
        if held:
            expected.append((f"u{row}", shown, held, list(dict.fromkeys(seen))))
    users, history, held_out, views = cut(sequences, positions, most, exclude)
    made = zip(users.to_pylist(), history, held_out, views.take(np.arange(len(users))), strict=True)
    assert [(user, *(part.tolist() for part in parts)) for user, *parts in made] == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=6))
def test_slices_are_slices(wanted: list[tuple[int, int]]) -> None:
    flat = np.arange(10, dtype=np.int32)
    starts, lengths = (np.array([pair[part] for pair in wanted], dtype=np.int64) for part in (0, 1))
    made = slices(flat, starts, lengths)
    assert [made[n].tolist() for n in range(len(wanted))] == [list(range(s, s + n)) for s, n in wanted]
