"""What a run ends with: a user's latest items and the list, by their titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from blade_dist.batches import MISS
from blade_dist.data.bundle import DataBundle
from blade_dist.stages.one_list import one_list


def test_a_list_is_said_by_its_titles(small: DataBundle, tmp_path: Path) -> None:
    rows = [
        {"user": "x", "prompt": 1, "policy": "sft", "decode": "list", "items": [0, 1, 2]},
        {"user": "x", "prompt": 2, "policy": "blade", "decode": "rank", "items": [0, 1, 2]},
        {"user": "y", "prompt": 3, "policy": "blade", "decode": "list", "items": [4, MISS, 5]},
        {"user": "z", "prompt": 4, "policy": "blade", "decode": "list", "items": [0, 1, 2]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "per_user.parquet")
    (user,), history = small.test.rows(np.array([3])).user, small.test.rows(np.array([3])).history[0]
    titles = small.catalog.titles
    had = "; ".join(titles[item] for item in history[-3:])
    assert one_list(tmp_path / "per_user.parquet", "blade", "list", small) == [
        f"user {user} had, latest last: {had}",
        f"blade recommends: {titles[4]}; {titles[5]}",
    ]
    assert one_list(tmp_path / "per_user.parquet", "grpo", "list", small) == []
