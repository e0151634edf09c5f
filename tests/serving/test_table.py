"""A file of histories to a file of lists: checked first, part by part, resumed, whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.errors import UserError
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.parts import HistoryFile, Job, PartWriter
from blade_dist.serving.recommend import List, Recommender
from blade_dist.serving.request import Resolved, Resolver
from blade_dist.serving.table import Progress, recommend_file, with_engine
from blade_dist.store.arrow import read_table, write_table


class ByHand:
    """Lists of the items after the last one of the history; stops after some requests, as a killed process does."""

    def __init__(self, opened: OpenedExport, stops_after: int | None = None) -> None:
        self.opened, self.asked, self._stops_after = opened, 0, stops_after

    def lists(self, requests: Sequence[Resolved]) -> list[List]:
        if self._stops_after is not None and self.asked >= self._stops_after:
            raise KeyboardInterrupt
        self.asked += len(requests)
        first = [int(one.history[-1]) + 1 for one in requests]
        items = [np.arange(one, one + r.lists.k) % 40 for one, r in zip(first, requests, strict=True)]
        return [(row.astype(np.int32), -np.arange(len(row)) / 4) for row in items]


def written(
    opened: OpenedExport, path: Path, out: Path, engine: ByHand, given: dict[str, Any] | None = None
) -> list[Progress]:
    said: list[Progress] = []
    start = lambda: cast(Recommender, engine)  # noqa: E731
    recommend_file(with_engine(start), Resolver(opened), HistoryFile(path), out, given or {}, said.append, rows=4)
    return said


def histories(opened: OpenedExport, path: Path, rows: int = 10, **columns: Any) -> Path:
    ids = [[opened.catalog.item_ids[row % 30], "gone"] for row in range(rows)]
    table = pa.table({"user": np.arange(rows), "history": ids, "unread": ["x"] * rows, **columns})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=3)
        return path
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=7):
            writer.write_batch(batch)
    return path


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow"])
@pytest.mark.parametrize("out", ["out.parquet", "out.arrow"])
def test_every_row_has_its_list_in_order(opened: OpenedExport, tmp_path: Path, name: str, out: str) -> None:
    k = pa.array([None, 2] * 5, pa.int32())
    limits = pa.array([[("*", 2)], None] * 5, pa.map_(pa.string(), pa.int64()))
    said = written(opened, histories(opened, tmp_path / name, k=k, at_most=limits), tmp_path / out, ByHand(opened))
    assert [(one.done, one.rows) for one in said] == [(4, 10), (8, 10), (10, 10)]
    table = pq.read_table(tmp_path / out) if out.endswith("parquet") else read_table(tmp_path / out)
    assert table["user"].to_pylist() == [*range(10)]
    wanted = [[(row % 30 + 1 + place) % 40 for place in range(3 if row % 2 == 0 else 2)] for row in range(10)]
    assert table["items"].to_pylist() == [opened.catalog.item_ids[items].tolist() for items in wanted]
    assert table["titles"].to_pylist() == [opened.catalog.titles[items].tolist() for items in wanted]
    assert table["logprobs"].to_pylist()[1] == [0.0, -0.25]
    assert table["skipped"].to_pylist() == [["gone"]] * 10
    assert table["cut"].to_pylist() == [0] * 10
    assert {path.name for path in tmp_path.iterdir()} == {name, out}


def test_what_is_stopped_goes_on_where_it_was(opened: OpenedExport, tmp_path: Path) -> None:
    path, out = histories(opened, tmp_path / "in.parquet"), tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        written(opened, path, out, ByHand(opened, stops_after=4))
    assert not out.exists()
    with pytest.raises(UserError, match=r"out.parquet.parts holds lists of another file, export or options"):
        written(opened, path, out, ByHand(opened), given={"k": 2})
    again = ByHand(opened)
    said = written(opened, path, out, again)
    assert (again.asked, [one.done for one in said]) == (6, [8, 10])
    written(opened, path, tmp_path / "at once.parquet", ByHand(opened))
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "at once.parquet"))
    assert not out.with_name("out.parquet.parts").exists()


def test_a_file_without_rows_becomes_one_without_lists(opened: OpenedExport, tmp_path: Path) -> None:
    path = tmp_path / "in.arrow"
    write_table(pa.table({"history": pa.array([], pa.list_(pa.string()))}), path)
    written(opened, path, tmp_path / "out.parquet", ByHand(opened))
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"history": [["gone"]] * 10}, r"in.parquet, row 0: history: none of its 1 ids is an item"),
        ({"history": [[]] * 10}, r"in.parquet, row 0: history: is empty"),
        ({"history": ["a"] * 10}, r"in.parquet, row 0: history: Input should be a valid list"),
        ({"k": [3] * 9 + [90]}, r"in.parquet, row 9: k: 90 items, and there are 40"),
        ({"decode": ["list"] * 6 + ["guess"] * 4}, r"in.parquet, row 6: decode: Input should be"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named_before_an_engine_starts(
    opened: OpenedExport, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = histories(opened, tmp_path / "in.parquet", **columns)
    engine = ByHand(opened)
    with pytest.raises(UserError, match=message):
        written(opened, path, tmp_path / "out.parquet", engine)
    assert engine.asked == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_files_that_cannot_be_read_or_written(opened: OpenedExport, tmp_path: Path) -> None:
    path = histories(opened, tmp_path / "in.parquet")
    (tmp_path / "there.parquet").touch()
    for out, message in (("there.parquet", "exists; delete it"), ("out.csv", r"must end with \.parquet or \.arrow")):
        with pytest.raises(UserError, match=message):
            written(opened, path, tmp_path / out, ByHand(opened))
    with pytest.raises(UserError, match=r"gone\.parquet: no such file"):
        HistoryFile(tmp_path / "gone.parquet")
    with pytest.raises(UserError, match="neither Parquet nor an Arrow file"):
        HistoryFile(tmp_path / "there.parquet")
    with pytest.raises(UserError, match="neither Parquet nor an Arrow file"):
        HistoryFile(path.rename(tmp_path / "in.arrow"))
    pq.write_table(pa.table({"histories": [["a"]]}), tmp_path / "named.parquet")
    with pytest.raises(UserError, match=r"no column history .*; did you mean histories\?"):
        HistoryFile(tmp_path / "named.parquet")


def test_parts_are_written_in_any_order(opened: OpenedExport, tmp_path: Path) -> None:
    path = histories(opened, tmp_path / "in.parquet")
    job = Job(path, tmp_path, {}, rows=4)
    for order in ([0, 1, 2], [2, 0, 1]):
        for number in order:
            job.path(number).unlink(missing_ok=True)
        writer = PartWriter(cast(Recommender, ByHand(opened)), job)
        assert [writer.write(number) for number in order] == [{2: 2}.get(number, 4) for number in order]
        users = [read_table(job.path(number))["user"].to_pylist() for number in range(3)]
        assert users == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
