"""A file of histories on two engines, by Ray Data, has the lists that one engine writes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blade_dist.serving.opened import EngineOptions, OpenedExport
from blade_dist.serving.parts import HistoryFile
from blade_dist.serving.request import Resolver
from blade_dist.serving.spread import write_spread
from blade_dist.serving.table import Progress, recommend_file
from blade_dist.store.arrow import read_table


def test_two_engines_write_what_one_does(
    made: Path,
    opened: OpenedExport,
    histories: list[list[str]],
    wanted: list[dict[str, Any]],
    ray_session: None,
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table({"history": histories}), tmp_path / "in.parquet")
    said: list[Progress] = []
    write = partial(write_spread, made, EngineOptions(), 2, 1, False)
    out = tmp_path / "out.arrow"
    recommend_file(write, Resolver(opened), HistoryFile(tmp_path / "in.parquet"), out, {}, said.append, rows=8)
    rows = read_table(out).to_pylist()
    assert [row["items"] for row in rows] == [row["items"] for row in wanted]
    assert [progress.done for progress in said][-1] == len(said) * 8 - 6 == 50
