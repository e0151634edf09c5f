"""What may be trained on: each user's items before the training end, and none at or after it."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.data.assemble import Assembler
from blade_dist.data.by_rule import SplitByRule
from blade_dist.data.held_rows import HeldName
from blade_dist.data.sequence_table import SequenceTable, write_sequences
from blade_dist.data.sequences import SequenceStore, UserSequences
from blade_dist.data.split import Batch
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings, PromptsFrom
from blade_dist.store.arrow import write_table


def test_rows_come_in_the_order_of_the_request_over_all_batches(tmp_path: Path) -> None:
    path = tmp_path / "data" / "sequences.arrow"
    batches = [["a", "b"], [], ["c", "d", "e"]]
    made = [(pa.array(users, pa.string()), Ragged.of([[ord(u)] * (ord(u) - 96) for u in users])) for users in batches]
    assert write_sequences(path, made) == 5
    table = SequenceTable.load(path)
    assert (len(table), table.lengths.tolist()) == (5, [1, 2, 3, 4, 5])
    rows = table.rows(np.array([4, 0, 2, 4]))
    assert [row.tolist() for row in rows] == [[101] * 5, [97], [99] * 3, [101] * 5]
    assert rows.flat.dtype == np.int32
    with pytest.raises(IndexError, match="users 0 to 4, not 2 to 5"):
        table.rows(np.array([2, 5]))


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    assert write_sequences(tmp_path / "s.arrow", []) == 0
    table = SequenceTable.load(tmp_path / "s.arrow")
    assert (len(table), len(table.lengths)) == (0, 0)
    assert len(table.rows(np.zeros(0, np.int64))) == 0


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name, item in (("a", 1), ("b", 1), ("c", 2)):
        write_sequences(tmp_path / name, [(pa.array(["u"]), Ragged.of([[0, item]]))])
    a, b, c = (SequenceTable.load(tmp_path / name).fingerprint() for name in "abc")
    assert a == b != c


def test_data_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "sequences.arrow"
    again = rf"delete {tmp_path}/data and run the data stage again"
    with pytest.raises(UserError, match=rf"written by another version .*\(it is missing; .*\): {again}"):
        SequenceTable.load(path)
    write_table(pa.table({"user": ["a"]}), path)
    with pytest.raises(UserError, match=rf"\(columns user; here user, items\): {again}"):
        SequenceTable.load(path)


TIMES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=14).map(sorted), min_size=1, max_size=6)


@given(
    TIMES,
    st.sampled_from(["leave_last", "global_time"]),
    st.sampled_from(get_args(PromptsFrom)),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(max_examples=90)
def test_nothing_that_is_held_out_is_in_it(
    rows: list[list[int]], split: str, prompts_from: PromptsFrom, targets: int, least: int, partitions: int
) -> None:
    """Nothing at or after a training end; and no item that the alignment is to ask for, where these are kept back."""
    given_ = DataSettings.model_validate(
        {"split": split, "targets": targets, "min_history": least, "validation_fraction": 0.2, "test_fraction": 0.2}
    )
    times = np.array([time for row in rows for time in row])
    owner = np.array([user for user, row in enumerate(rows) for _ in row])
    with TemporaryDirectory() as folder:
        # Every interaction is an item of its own, so that an item tells its user and its time.
        store = SequenceStore(Path(folder), partitions)
        for partition in range(partitions):
            items = np.flatnonzero(owner % partitions == partition).astype(np.int32)
            users = np.unique(owner[items])
            lengths = np.array([len(rows[user]) for user in users], dtype=np.int64)
            part = Ragged(items, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
            store.save(partition, UserSequences(pa.array([str(u) for u in users], pa.string()), part, times[items]))
        rule = SplitByRule(given_, True, store)
        assembler = Assembler(given_, True, rule, np.ones(len(times), np.int64), prompts_from)
        taught = {
            user: items[row].tolist()
            for users, items in assembler.sequences()
            for row, user in enumerate(users.to_pylist())
        }
        held = by_user(*(assembler.held_out(name) for name in get_args(HeldName)))
        asked = by_user(*([] if prompts_from == "train" else [assembler.training("held_out")]))
        learnt = by_user(*([] if prompts_from == "held_out" else [assembler.training("train")]))
        popularity = assembler.popularity()
    # Where a user's training may end at the latest: before the first held-out item, or before the one point in time.
    for user in range(len(rows)):
        own = np.flatnonzero(owner == user)
        if rule.times is not None:
            free = own[times[own] < rule.times[0]]
        else:
            free = own[own < min(held.get(str(user), []), default=len(owner))]
        if prompts_from != "train" and len(free) > max(least, 2):
            assert asked.pop(str(user)) == {free[-1]}
            free = free[:-1]
        assert taught.get(str(user), []) == (free.tolist() if len(free) >= 2 else [])
        assert learnt.get(str(user), set()) <= set(free.tolist())
        assert (popularity[free] == 1).all()
        assert not popularity[np.setdiff1d(own, free)].any()
    assert not asked
    assert rule.times is None or (times[list(set().union(*held.values()))] >= rule.times[0]).all()


def by_user(*batches: Iterable[Batch]) -> dict[str, set[int]]:
    """The targets of each user's prompts."""
    found: dict[str, set[int]] = {}
    for users, _, targets, _ in chain.from_iterable(batches):
        for row, user in enumerate(users.to_pylist()):
            found.setdefault(user, set()).update(targets[row].tolist())
    return found
