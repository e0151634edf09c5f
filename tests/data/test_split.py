"""Splits: no leakage, and the windows are the definition."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import Ragged
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
    users, history, targets, views = cut(sequences, positions, max_history)
    seen = views.take(np.arange(len(positions)))
    for n, (row, at) in enumerate(zip(positions.user, positions.at, strict=True)):
        assert seen[n].tolist() == sequences.items[row][:at].tolist()
    return [(u, history[n].tolist(), targets[n].tolist()) for n, u in enumerate(users.to_pylist())]


def _check_training(sequences: UserSequences, split: Split, targets: int, least: int, latest: int, most: int) -> None:
    expected = []
    for row, end in enumerate(split.train_end):
        part = sequences.items[row][:end].tolist()
        at = [p for p in range(least, len(part) + 1) if p + targets <= len(part)]
        expected += [
            (f"u{row}", part[max(0, p - most) : p], part[p : p + targets]) for p in (at[-latest:] if latest else at)
        ]
    assert _prompts(sequences, windows(split.train_end, targets, least, latest), most) == expected


@given(ROWS, SIZE, SIZE, st.integers(0, 4), SIZE)
def test_leave_last_holds_out_the_ends(rows: list[list[int]], targets: int, least: int, latest: int, most: int) -> None:
    sequences = _sequences(rows)
    split = leave_last(sequences.items.lengths, targets, least)
    test, validation = {}, {}
    for row in range(len(rows)):
        whole = sequences.items[row].tolist()
        if len(whole) >= least + targets:
            test[f"u{row}"] = (whole[:-targets][-most:], whole[-targets:])
        if len(whole) >= least + 2 * targets:
            held = whole[:-targets]
            validation[f"u{row}"] = (held[:-targets][-most:], held[-targets:])
    assert {u: (h, t) for u, h, t in _prompts(sequences, split.test, most)} == test
    assert {u: (h, t) for u, h, t in _prompts(sequences, split.validation, most)} == validation
    _check_no_held_out_item_in_training(sequences, split)
    _check_training(sequences, split, targets, least, latest, most)


@given(ROWS, SIZE, SIZE, SIZE)
def test_windows_of_the_test_part_follow_each_other(rows: list[list[int]], targets: int, least: int, most: int) -> None:
    """They end with the user's last item; no training or validation item is among them."""
    sequences = _sequences(rows)
    split = leave_last(sequences.items.lengths, targets, least, most)
    assert split.test.count.tolist() == [targets] * len(split.test)
    for row, items in enumerate(rows):
        length, at = len(items), split.test.at[split.test.user == row].tolist()
        fits = [n for n in range(1, most + 1) if length - (n + 1) * targets >= least]
        windows = max(fits, default=int(length >= least + targets))
        assert at == [length - n * targets for n in range(windows, 0, -1)]
    assert len(split.validation) == (sequences.items.lengths >= least + 2 * targets).sum()
    _check_no_held_out_item_in_training(sequences, split)


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


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=6))
def test_slices_are_slices(wanted: list[tuple[int, int]]) -> None:
    flat = np.arange(10, dtype=np.int32)
    starts, lengths = (np.array([pair[part] for pair in wanted], dtype=np.int64) for part in (0, 1))
    made = slices(flat, starts, lengths)
    assert [made[n].tolist() for n in range(len(wanted))] == [list(range(s, s + n)) for s, n in wanted]
