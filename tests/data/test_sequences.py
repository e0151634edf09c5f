"""Sorting, repeats and k-core, against the definitions in plain Python."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.data.partition import quantiles
from blade_dist.data.sequences import Repeats, SequenceStore, UserSequences, build_sequences, k_core

LOG = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 4), st.integers(0, 3)), max_size=40)


def _built(log: list[tuple[str, int, int]], repeats: Repeats = "first") -> tuple[UserSequences, int]:
    columns = list(zip(*log, strict=True)) or [[], [], []]
    types = [pa.string(), pa.int32(), pa.int64()]
    return build_sequences(
        pa.table([pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=["user", "item", "time"]), repeats
    )


def _plain(sequences: UserSequences) -> dict[str, list[int]]:
    return {user: sequences.items[row].tolist() for row, user in enumerate(sequences.users.to_pylist())}


@given(LOG, st.sampled_from(["first", "last", "all"]))
def test_items_stand_in_time_order_and_of_a_pair_stays_what_is_asked_for(
    log: list[tuple[str, int, int]], repeats: Repeats
) -> None:
    expected: dict[str, list[int]] = {user: [] for user, _, _ in log}
    for user, item, _ in sorted(log, key=lambda row: row[2]):  # stable: equal times keep their order
        if item in expected[user]:
            if repeats == "first":
                continue
            if repeats == "last":
                expected[user].remove(item)
        expected[user].append(item)
    sequences, repeated = _built(log, repeats)
    assert _plain(sequences) == expected
    for row, items in enumerate(expected.values()):
        places = [max((n for n in range(at) if items[n] == item), default=-1) for at, item in enumerate(items)]
        assert Ragged(sequences.previous, sequences.items.offsets)[row].tolist() == places
    assert repeated == len(log) - sum(map(len, expected.values()))
    assert all((np.diff(times) >= 0).all() for times in np.split(sequences.times, sequences.items.offsets[1:-1]))


def _core(rows: list[tuple[str, int]], k: int) -> list[tuple[str, int]]:
    while True:
        items = Counter(item for _, item in rows)
        kept = [row for row in rows if items[row[1]] >= k]
        users = Counter(user for user, _ in kept)
        kept = [row for row in kept if users[row[0]] >= k]
        if len(kept) == len(rows):
            return rows
        rows = kept


@given(LOG, st.integers(0, 4), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_k_core_is_the_definition_however_users_are_partitioned(
    log: list[tuple[str, int, int]], k: int, partitions: int
) -> None:
    with TemporaryDirectory() as folder:
        store, pairs = SequenceStore(Path(folder), partitions), []
        for partition in range(partitions):
            part, _ = _built([row for row in log if ord(row[0]) % partitions == partition])
            store.save(partition, part)
            pairs += [(user, item) for user, row in _plain(part).items() for item in row]
        counts = k_core(store, k, 5)
        left = [(user, item) for p in range(partitions) for user, row in _plain(store.load(p)).items() for item in row]
    expected = _core(pairs, k)
    assert sorted(left) == sorted(expected)
    assert counts.tolist() == [sum(item == number for _, item in expected) for number in range(5)]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_quantiles_are_exact_over_partitions(times: list[int], partitions: int) -> None:
    with TemporaryDirectory() as folder:
        store = SequenceStore(Path(folder), partitions)
        for partition in range(partitions):
            part, _ = _built([(str(number), 0, time) for number, time in enumerate(times[partition::partitions])])
            store.save(partition, part)
        t1, t2 = quantiles(store, (0.5, 0.9))
    ordered = sorted(times)
    for point, share in ((t1, 0.5), (t2, 0.9)):
        assert point == ordered[min(int(np.ceil(share * len(times))), len(times) - 1)]
