"""The research probes run to their end on a tiny log, and begin where they say; what they find is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.quality.probes import front, gated_start
from benchmarks.quality.probes.alignment import Settings, align, reference_rewards
from benchmarks.quality.probes.logs import read_log
from benchmarks.quality.probes.writer import Writer, fit_ranker, read_prompts
from blade_dist.rewards.composite import Composite

REWARD = {"expected_ndcg@3": 1.0, "ild@3": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 users who go round 30 items of three groups."""
    path = tmp_path_factory.mktemp("log")
    rows = [(f"u{user}", f"i{(7 * user + step) % 30}", step) for user in range(40) for step in range(8)]
    pd.DataFrame(rows, columns=["user", "item", "time"]).to_parquet(path / "log.parquet")
    items = {"item": [f"i{number}" for number in range(30)], "groups": [["abc"[number % 3]] for number in range(30)]}
    pd.DataFrame(items).to_parquet(path / "items.parquet")
    return path


def test_nothing_held_out_is_seen_and_users_have_one_part(folder: Path) -> None:
    log = read_log(folder, targets=2, windows=2)
    assert [len(prompts) for prompts in log.prompts.values()] == [48, 16, 16]
    assert log.sequences.lengths.tolist() == [4] * 40
    users = [set(prompts.user) for prompts in log.prompts.values()]
    assert len(set.union(*users)) == 40 == sum(map(len, users))
    for prompts in log.prompts.values():
        for row in range(len(prompts)):
            assert not set(prompts.targets[row]) & set(prompts.history[row])


def test_the_first_list_is_the_ranking_and_an_alignment_moves_it(folder: Path) -> None:
    log = read_log(folder, targets=1, windows=2)
    ranker = fit_ranker(log, k=3, seed=0, epochs=1)
    start = {part: read_prompts(ranker, prompts, candidates=20) for part, prompts in log.prompts.items()}
    writer, reward = Writer(ranker), Composite(REWARD, log.catalog, 3)
    with torch.no_grad():
        greedy = writer.write(start["test"], 0, 3, 1.0)
        drawn = writer.write(start["test"], 4, 3, 0.5)
    assert np.array_equal(greedy.items[:, 0], start["test"].ranked.items[:, :3])
    torch.testing.assert_close(drawn.logprobs, drawn.reference, atol=1e-4, rtol=0)
    assert all(len(set(items)) == 3 for items in drawn.items.reshape(-1, 3).tolist())
    settings = Settings("blade", 1e-2, steps=3, every=1, k=3, prompts_per_step=8, group_size=4, references=4)
    reference = reference_rewards(start["train"], writer, reward, log, settings, seed=0)
    run = align(writer, start, reward, log, reference, settings, seed=0)
    assert [row["step"] for row in run.curve] == [0, 1, 2, 3]
    assert run.curve[1]["kl"] == pytest.approx(0, abs=1e-6)
    assert run.curve[-1]["kl"] > 1e-6


def test_the_commands_write_their_results(folder: Path, tmp_path: Path) -> None:
    outs = tmp_path / "gated.json", tmp_path / "front.json"
    small = {"held": 1, "windows": 1, "epochs": 1}
    gated_start.main(folder, rates="1e-2", steps=2, looks=1, references=4, looked_at=4, seeds=2, json=outs[0], **small)
    front.main(folder, '{"ndcg@3": 1, "ild@3": 0.1}', k=3, json=outs[1], **small)
    gated, ranked = (json.loads(out.read_text()) for out in outs)
    assert set(gated["rates"]) == {"static", "blade", "grpo"}
    assert {"greedy blade minus static", "drawn blade minus start"} <= gated["differences"].keys()
    assert gated["means"]["expected_ndcg@10, start"]["mean"] == 1
    assert ranked["rows"]["rank"]["ild@3"]["mean"] <= ranked["rows"]["utility 0.8"]["ild@3"]["mean"]
