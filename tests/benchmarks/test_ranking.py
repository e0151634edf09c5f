"""The numbers of a ranking study: pooled over seeds, paired by user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.quality.plain_count import plain_lists
from benchmarks.quality.ranking import summary
from benchmarks.tables.ranking import minus, ranking
from blade_dist.batches import Ragged
from blade_dist.settings.load import load_config
from blade_dist.store.run import RunPaths
from tests.helpers.catalogs import made_prompts, make_catalog

HITS = {("sft", "rank"): [1.0, 0.5, 0.0], ("sft", "list"): [0.5, 0.5, 0.0], ("sft", "sampled"): [0.0, 0.0, 0.0]}
HITS |= {("successors", decode): [0.0, 0.5, 0.5] for decode in ("list", "rank", "sampled")}


def test_methods_are_pooled_over_seeds_and_compared_user_by_user(tmp_path: Path) -> None:
    configs = [load_config(None, [f"run.dir={tmp_path / str(seed)}", f"run.seed={seed}"]) for seed in range(2)]
    for seed, config in enumerate(configs):
        folder = RunPaths(config.run.dir).evaluation
        folder.mkdir(parents=True)
        rows = [
            {"user": f"u{user}", "prompt": user, "policy": policy, "decode": decode, "items": [1], "reward": 0.0}
            | {"ndcg@10": value + 0.1 * seed * (policy == "sft")}
            for (policy, decode), values in HITS.items()
            for user, value in enumerate(values)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "per_user.parquet")
    found = summary(configs)
    assert (found["users"], found["prompts"]) == (3, 3)
    assert {name: of["ndcg@10"]["mean"] for name, of in found["methods"].items()} == pytest.approx(
        {"sft rank": 0.55, "sft list": np.mean([1, 1, 0]) / 2 + 0.05, "successors": 1 / 3}
    )
    difference = found["ranker_minus"]["successors"]["ndcg@10"]
    assert difference["mean"] == pytest.approx(0.55 - 1 / 3)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    head, *lines = ranking(found)
    assert head == ["method", "ndcg@10", "source"]
    assert [line[0] for line in lines] == ["successors", "SFT, `list`", "SFT, `rank`"]
    assert len(minus(found)) == 3


def test_the_plain_count_halves_with_every_item_back_and_normalises_nothing() -> None:
    """5 follows 0 three times, 7 follows 1 once and 8 two places after it: 3 / 2 against 1 and 0.7."""
    sequences = Ragged.of([[0, 5], [0, 5], [0, 5], [1, 7, 8]])
    prompts = made_prompts([[0, 1], [0, 2, 3, 4, 6, 1]], [[9]] * 2)
    lists = plain_lists(make_catalog(), sequences, prompts, 3, True)
    assert lists[0].tolist() == [5, 7, 8]
    assert lists[1, :2].tolist() == [7, 8]  # 0 is the sixth last and no longer looked at
