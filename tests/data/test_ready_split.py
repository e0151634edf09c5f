"""A ready split: its rows are the prompts, in order; training ends before the first of a user's held-out items."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from blade_dist.batches import ExcludeHistory, Ragged
from blade_dist.data.by_rows import SplitByRows
from blade_dist.data.held_rows import HeldName, HeldRows, check_once, check_targets, last
from blade_dist.data.prepare import DataBundle, load_data, prepare_data
from blade_dist.data.sequences import Repeats, SequenceStore, build_sequences
from blade_dist.data.split_file import SplitFile
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings
from blade_dist.settings.load import load_config
from blade_dist.stages.data import data_stage

LOGS = os.environ.get("BLADE_LOGS")
"""Folder of real logs, ``amazon-beauty`` and ``amazon-scientific`` among them; they are outside the project."""

NAMES: tuple[HeldName, ...] = ("validation", "test")
ITEMS = pa.table({"item": [f"i{n}" for n in range(8)]})
ROWS = [
    {"split": "valid", "user": "a", "history": ["i0", "i1"], "item": "i2", "time": 3},
    {"split": "test", "user": "a", "history": ["i0", "i1", "i2"], "item": "i3", "time": 4},
    {"split": "test", "user": "b", "history": ["i5"], "item": "i4", "time": 2},
    {"split": "train", "user": "b", "history": ["unknown"], "item": "i5", "time": 1},
]


def _file(folder: Path, rows: list[dict]) -> SplitFile:
    pq.write_table(pa.Table.from_pylist(rows), folder / "split.parquet")
    return SplitFile(folder / "split.parquet", DataSettings())


def _plain(rows: HeldRows) -> list[tuple[str, list[int], list[int]]]:
    parts = zip(rows.users.to_pylist(), rows.history, rows.targets, strict=True)
    return [(user, history.tolist(), targets.tolist()) for user, history, targets in parts]


def test_rows_are_kept_in_order_and_csv_is_the_same(tmp_path: Path) -> None:
    csv = "".join(
        f"{row['split']},{row['user']},{'|'.join(row['history'])},{row['item']},{row['time']}\n" for row in ROWS
    )
    (tmp_path / "split.csv").write_text("split,user,history,item,time\n" + csv)
    for file in (_file(tmp_path, ROWS), SplitFile(tmp_path / "split.csv", DataSettings())):
        validation, test = (file.rows(name, ITEMS) for name in NAMES)
        assert _plain(validation) == [("a", [0, 1], [2])]
        assert _plain(test) == [("a", [0, 1, 2], [3]), ("b", [5], [4])]
        assert test.times is not None
        assert (test.times.tolist(), file.train_rows) == ([4_000_000, 2_000_000], 1)  # microseconds
    assert test.where(1) == f"{tmp_path}/split.csv:4"


def test_a_row_may_hold_out_several_items(tmp_path: Path) -> None:
    rows = [{**ROWS[1], "item": ["i3", "i4", "i3"]}, {**ROWS[2], "item": ["i0"]}]
    test = _file(tmp_path, rows).rows("test", ITEMS)
    assert [targets.tolist() for targets in test.targets] == [[3, 4], [0]]


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (1, {"item": "x"}, r"split.parquet: row 2: item 'x' \(column 'item'\) is no item with a title"),
        (2, {"history": ["i1", "x"]}, r"row 3: item 'x' \(column 'history'\) is no item with a title"),
        (2, {"history": ["i1", None]}, r"row 3: item None \(column 'history'\) is no item with a title"),
        (2, {"user": None}, "row 3: the user is empty"),
        (2, {"history": []}, "row 3: the history is empty"),
        (1, {"history": None}, "row 2: the history is empty"),
        (1, {"item": None}, "row 2: no item is held out"),
        (3, {"split": "dev"}, "row 4: the split 'dev' is none of train, valid, validation, test"),
        (2, {"time": None}, "row 3: column 'time': None is no time"),
        (0, {"split": "test"}, "no row has the split validation"),
        (1, {"item": "i1"}, "row 2: an item that is held out is in its own history, and with lists.exclude_history"),
        (2, {"user": "a"}, r"row 3: user 'a' has 1 test row\(s\) before it, from .*row 2 on, and data.test_windows is"),
        (2, {"split": "valid", "user": "a"}, r"row 3: user 'a' has 1 validation row\(s\) before it, from .*row 1 on"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: int, change: dict, message: str) -> None:
    rows = [dict(given) for given in ROWS]
    rows[row].update(change)
    with pytest.raises(UserError, match=message) as error:
        _read(tmp_path, rows)
    assert "\n" not in str(error.value)


def _read(folder: Path, rows: list[dict]) -> None:
    file = _file(folder, rows)
    for name in NAMES:
        held = file.rows(name, ITEMS)
        check_once(held, name, 1)
        check_targets(held, True, 20)


@pytest.mark.parametrize("column", ["split", "user", "history", "item"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    rows = [{name: value for name, value in row.items() if name != column} for row in ROWS]
    with pytest.raises(UserError, match=rf"split.parquet: no column '{column}' \(data.splits needs {column}\)"):
        _file(tmp_path, rows)


@pytest.mark.parametrize(
    ("history", "item", "message"),
    [
        (["i0|i1", "i2"], ["i3", "i4"], r"column 'history' \(data.splits\) is not a list of item ids"),
        ([[{"x": 1}], [{"x": 2}]], ["i3", "i4"], r"column 'history' \(data.splits\) holds no ids, but list<"),
    ],
)
def test_a_column_of_something_else_is_named(tmp_path: Path, history: list, item: list, message: str) -> None:
    table = pa.table({"split": ["valid", "test"], "user": ["a", "b"], "history": history, "item": item})
    pq.write_table(table, tmp_path / "split.parquet")
    with pytest.raises(UserError, match=message):
        SplitFile(tmp_path / "split.parquet", DataSettings())


def test_numbers_are_ids_as_in_the_log(tmp_path: Path) -> None:
    history = pa.array([[1, 2], [3]], pa.large_list(pa.int64()))
    pq.write_table(
        pa.table({"split": ["valid", "test"], "user": [1, 2], "history": history, "item": [3, 1]}), tmp_path / "s.pq"
    )
    items = pa.table({"item": ["1", "2", "3"]})
    read = [_plain(SplitFile(tmp_path / "s.pq", DataSettings()).rows(name, items)) for name in NAMES]
    assert read == [[("1", [0, 1], [2])], [("2", [2], [0])]]


def test_a_file_that_is_not_there_or_none_of_ours(tmp_path: Path) -> None:
    for name in ("split.parquet", "split.csv", "split.json"):
        with pytest.raises(UserError, match=r"data.splits: .* does not exist"):
            SplitFile(tmp_path / name, DataSettings())
    (tmp_path / "split.parquet").write_text("no")
    with pytest.raises(UserError, match=r"split.parquet: not readable as Parquet"):
        SplitFile(tmp_path / "split.parquet", DataSettings())
    (tmp_path / "split.json").touch()
    with pytest.raises(UserError, match=r"split.json: the file is empty"):
        SplitFile(tmp_path / "split.json", DataSettings())


@pytest.mark.parametrize(
    ("exclude", "shown", "fine"), [(True, 1, False), ("shown", 1, True), ("shown", 2, False), (False, 2, True)]
)
def test_a_target_may_be_in_the_part_of_its_history_that_lists_may_hold(
    exclude: ExcludeHistory, shown: int, fine: bool
) -> None:
    rows = HeldRows(pa.array(["a"]), Ragged.of([[3, 4]]), Ragged.of([[2, 3]]), None, lambda row: f"row {row}")
    if fine:
        check_targets(rows, exclude, shown)
    else:
        with pytest.raises(UserError, match="row 0: an item that is held out is in its own history"):
            check_targets(rows, exclude, shown)


def test_the_last_items_of_each_row() -> None:
    assert [row.tolist() for row in last(Ragged.of([[1, 2, 3], [], [4]]), 2)] == [[2, 3], [], [4]]


def _store(folder: str, log: list[list[int]], repeats: Repeats, partitions: int) -> SequenceStore:
    """Users u0, u1, ... with these items, an hour apart."""
    store = SequenceStore(Path(folder), partitions)
    for partition in range(partitions):
        users = range(partition, len(log), partitions)
        user = pa.array([f"u{user}" for user in users for _ in log[user]], pa.string())
        item = pa.array([item for user in users for item in log[user]], pa.int32())
        hour = pa.array([hour for user in users for hour in range(len(log[user]))], pa.int64())
        store.save(partition, build_sequences(pa.table({"user": user, "item": item, "time": hour}), repeats)[0])
    return store


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=9), min_size=1, max_size=5),
    st.sampled_from(["first", "last", "all"]), st.integers(1, 3), st.booleans(), st.data(),
)  # fmt: skip
@settings(max_examples=80)
def test_training_ends_before_the_first_held_out_item(
    log: list[list[int]], repeats: Repeats, partitions: int, whole: bool, data: st.DataObject
) -> None:
    """Rows as leave-one-out makes them of the whole log, for some users; the log has all items, or training alone."""
    asked = [user for user in range(len(log)) if data.draw(st.booleans())]
    users = pa.array([f"u{user}" for user in asked], pa.string())
    rows: dict[HeldName, HeldRows] = {
        name: HeldRows(
            users, Ragged.of([log[user][:-back] for user in asked]), Ragged.of([[log[user][-back]] for user in asked]),
            np.array([len(log[user]) - back for user in asked], np.int64), str,
        )
        for name, back in (("validation", 2), ("test", 1))
    }  # fmt: skip
    written = log if whole else [row[:-2] if user in asked else row for user, row in enumerate(log)]
    with TemporaryDirectory() as folder:
        split = SplitByRows(rows, _store(folder, written, repeats, partitions), repeats, 4)
        taught = {
            user: (part.items[row][:end].tolist(), part.times[part.items.offsets[row] :][:end].tolist())
            for part, ends in split.parts()
            for row, (user, end) in enumerate(zip(part.users.to_pylist(), ends, strict=True))
        }
        for user, row in enumerate(log):
            items, hours = taught[f"u{user}"]
            assert max(hours, default=0) < len(row) - (2 if user in asked else 0)  # nothing from the held-out items on
            if repeats == "all":
                assert items == (row[:-2] if user in asked else row)
        for name, of in rows.items():
            made = [part for part in split.held_out(name, 2) if len(part[0])]
            assert [user for part in made for user in part[0].to_pylist()] == of.users.to_pylist()
            assert [r.tolist() for part in made for r in part[1]] == [r.tolist()[-4:] for r in of.history]
            assert [r.tolist() for part in made for r in part[2]] == [r.tolist() for r in of.targets]
            seen = [r.tolist() for part in made for r in part[3].take(np.arange(len(part[0])))]
            assert seen == [list(dict.fromkeys(r.tolist())) for r in of.history]
        assert split.describe()["test_before_own_training"] == 0


def test_rows_earlier_than_training_are_counted_and_unknown_users_named(tmp_path: Path) -> None:
    store = _store(str(tmp_path), [[0, 1, 2], [3, 4, 5, 6]], "first", 1)
    rows: dict[HeldName, HeldRows] = {
        name: HeldRows(pa.array(["u0", "u1"]), Ragged.of([[0], [3]]), Ragged.of([[7], [7]]), np.array(times), str)
        for name, times in (("validation", [9, 9]), ("test", [2, 1]))
    }
    assert SplitByRows(rows, store, "first", 4).describe() == {
        "train_rows_not_read": 0,
        "test_before_own_training": 1,  # u1's at 1, before its last training item at 3
        "test_before_any_training": 2,
    }
    rows["test"] = HeldRows(pa.array(["u0", "nobody"]), *(rows["test"].part(0, 2)[1:]), None, lambda row: f"row {row}")
    with pytest.raises(UserError, match="row 1: user 'nobody' has no interaction in the log"):
        SplitByRows(rows, store, "first", 4)


@pytest.mark.parametrize("given_", ["data.k_core=5", "data.min_rating=3"])
def test_filters_beside_a_ready_split_are_refused(given_: str) -> None:
    with pytest.raises(UserError, match=rf"{given_[:-2]}: {given_[-1]} would drop what data.splits asks for"):
        load_config(None, ["data.splits=split.parquet", given_])
    assert load_config(None, ["data.splits=split.parquet", "data.k_core=0"]).data.core == 0
    assert [load_config(None, more).data.core for more in ([], ["data.splits=s.parquet"])] == [5, 0]


def _table(folder: Path, log: list[tuple[str, str, int]], split: list[dict]) -> list[str]:
    """A log, the items of ITEMS, and a split as files; the settings that read them."""
    user, item, time = zip(*log, strict=True)
    pq.write_table(pa.table({"user": user, "item": item, "time": time}), folder / "log.parquet")
    pq.write_table(ITEMS.append_column("title", pa.array([f"Title {n}" for n in range(8)])), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(split), folder / "split.parquet")
    return [
        f"run.dir={folder / 'run'}", "data.source=table", f"data.path={folder}/log.parquet", "data.min_history=1",
        f"data.items={folder}/items.parquet", f"data.splits={folder}/split.parquet", "lists.k=2",
    ]  # fmt: skip


def test_the_stage_reads_a_ready_split(tmp_path: Path) -> None:
    log = [(user, f"i{n}", n) for user in ("a", "b", "c") for n in range(5)] + [("d", "i5", 2)]
    split = [
        {"split": "valid", "user": "a", "history": ["i0", "i1", "i2"], "item": "i3", "time": 3},
        {"split": "test", "user": "b", "history": ["i0", "i1", "i2", "i3"], "item": "i4", "time": 4},
        {"split": "test", "user": "a", "history": ["i0", "i1", "i2", "i3"], "item": "i7", "time": 0},  # in no log
    ]
    settings = _table(tmp_path, log, split)
    console = Console(record=True, width=800)
    data_stage(load_config(None, settings), console)
    said = console.export_text()
    assert (
        "data: of 4 users 3 have a training sequence and 3 a training prompt, 1 are validated, 2 tested; 1 of 2 "
        in said
    )
    assert "data: of 2 test rows 1 are earlier than a training interaction of the same user, 1 than one of any" in said
    assert "data: warning: 1 of 4 users teach nothing, as no two items of theirs are left to train on: 1 have" in said
    bundle = load_data(tmp_path / "run")
    ids, test = bundle.catalog.item_ids, bundle.test.rows(np.arange(2))
    assert ids.tolist() == ["i0", "i1", "i2", "i3", "i4", "i5", "i7"]
    assert test.user.tolist() == ["b", "a"]
    assert [ids[row].tolist() for row in test.targets] == [["i4"], ["i7"]]
    assert _sequences(bundle) == [["i0", "i1", "i2"], ["i0", "i1", "i2", "i3"], ["i0", "i1", "i2", "i3", "i4"]]
    assert bundle.card["test_targets"] == {"all": 2, "cold": 1}
    with pytest.raises(UserError, match=r"with other settings: .*lists.exclude_history: True there, False now"):
        prepare_data(load_config(None, [*settings, "lists.exclude_history=false"]))
    settings = _table(tmp_path, log, [*split[:1], split[2]])
    with pytest.raises(UserError, match=r"split.parquet: none of the 1 held-out test items is ever trained on"):
        prepare_data(load_config(None, [*settings, f"run.dir={tmp_path}/cold"]))


def _sequences(bundle: DataBundle) -> list[list[str]]:
    return [bundle.catalog.item_ids[row].tolist() for row in bundle.sequences.rows(np.arange(len(bundle.sequences)))]


@pytest.mark.skipif(LOGS is None, reason="needs real logs: set BLADE_LOGS to their folder")
@pytest.mark.parametrize(("name", "users", "items"), [("scientific", 8_317, 4_344), ("beauty", 22_363, 12_101)])
def test_the_published_splits_ask_every_user_and_every_user_teaches(
    tmp_path: Path, name: str, users: int, items: int
) -> None:
    folder = f"{LOGS}/amazon-{name}"
    columns = ["data.source=table", f"data.path={folder}/log.parquet", f"data.items={folder}/items.parquet"]
    settings = [*columns, "data.columns.groups=groups", "codec.kind=semantic_id", "codec.levels=1", "lists.k=10"]
    protocols = {"ready": [f"data.splits={folder}/split.parquet"], "rule": ["data.targets=1", "data.k_core=0"]}
    made = {}
    for protocol, more in protocols.items():
        prepare_data(load_config(None, [f"run.dir={tmp_path / protocol}", "data.min_history=1", *settings, *more]))
        made[protocol] = load_data(tmp_path / protocol)
        assert len(made[protocol].test) == len(made[protocol].sequences) == users
        assert len(made[protocol].catalog) == items
    ready, rule = (made[protocol].test.rows(np.arange(users)) for protocol in ("ready", "rule"))
    of = {user: row for row, user in enumerate(rule.user)}
    rows = rule.take(np.array([of[user] for user in ready.user]))
    np.testing.assert_array_equal(ready.targets.flat, rows.targets.flat)
    np.testing.assert_array_equal(ready.history.flat, rows.history.flat)
    assert _sequences(made["ready"]) == _sequences(made["rule"])
