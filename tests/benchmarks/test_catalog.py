"""The items of a generated day, and how a command's seconds and memory are taken."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.catalog import timed, write_day
from blade_dist.catalog.catalog import Catalog


def test_a_day_has_all_items_and_new_ones_with_titles_of_their_own(tmp_path: Path) -> None:
    titles = ["The Long Way Home", "A Short Way Out", "Nowhere"]
    catalog = Catalog.build(["a", "b", "c"], titles, [["x", "y"], ["y"], []], np.zeros(3, np.int64))
    rows = pq.read_table(write_day(catalog, 50, tmp_path / "day.parquet")).to_pylist()
    assert [row["item"] for row in rows[:4]] == ["a", "b", "c", "new0"]
    assert [row["title"] for row in rows[:3]] == titles
    assert [row["groups"] for row in rows[:3]] == ["x|y", "y", ""]
    assert len({row["title"] for row in rows}) == len(rows) == 53
    assert {row["groups"] for row in rows[3:]} == {"x|y", "y", ""}


def test_a_command_is_timed_and_its_memory_is_its_own() -> None:
    seconds, memory = timed([sys.executable, "-c", "import time; held = b'x' * 200 * 2**20; time.sleep(0.2)"])
    assert seconds > 0.2
    assert 200 < memory < 300
    with pytest.raises(RuntimeError, match="exit code 3"):
        timed([sys.executable, "-c", "raise SystemExit(3)"])
