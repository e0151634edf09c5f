"""References that move, on the real stack: J-BOND's anchor, and a prior that is refreshed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from rich.console import Console
from safetensors.torch import load_file

from blade_dist.cluster.placement import place_here
from blade_dist.data.bundle import DataBundle
from blade_dist.data.seeds import prompts_of_step
from blade_dist.posterior.renewed import Renewals
from blade_dist.settings import Config
from blade_dist.stages.actors import engines, scorer
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.stages.prior import open_prior
from blade_dist.store.files import read_json
from blade_dist.store.run import RunPaths
from blade_dist.training.prompter import Prompter
from tests.helpers.runs import TRAIN_PROMPTS, with_settings

ETA = 0.3
FIRST, STEPS = 2, 3


@pytest.fixture(scope="module")
def anchored(tiny_config: Config, trained: dict[int, RunPaths], tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """Two steps on two ranks, and then, with other learners, one more from the checkpoint."""
    config = with_settings(
        tiny_config,
        tmp_path_factory.mktemp("anchored") / "run",
        train={"steps": FIRST, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS}
        | {"checkpoint_every": 1, "keep_checkpoints": STEPS},
        learner={"workers": 2, "zero_stage": 3, "lr": 1e-2},
    ).model_copy(update={"target": "bond", "bond": tiny_config.bond.model_copy(update={"eta": ETA})})
    paths = RunPaths(config.run.dir)
    shutil.copyfile(trained[1].prior, paths.prior)
    align_stage(open_run(config), Console(quiet=True))
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": STEPS})})
    align_stage(open_run(longer), Console(quiet=True))
    return paths


def checkpoints(paths: RunPaths, target: str) -> dict[int, Path]:
    """Folders by the number of steps that were done."""
    saved = [
        (read_json(file), file.parent) for file in paths.target(target).glob("learners/checkpoint_*/progress.json")
    ]
    return {progress["step"]: folder for progress, folder in saved if progress is not None}


def test_the_anchor_moves_by_eta_also_from_a_checkpoint(anchored: RunPaths) -> None:
    saved = checkpoints(anchored, "bond")
    assert sorted(saved) == list(range(1, STEPS + 1))
    before = load_file(anchored.reference / "model.safetensors")
    for _, folder in sorted(saved.items()):
        policy, anchor = load_file(folder / "policy" / "model.safetensors"), load_file(folder / "anchor.safetensors")
        assert set(anchor) == set(policy)
        for name, now in anchor.items():
            assert not torch.equal(policy[name], before[name])
            torch.testing.assert_close(now, (1 - ETA) * before[name] + ETA * policy[name], rtol=1e-6, atol=1e-8)
        before = anchor


def test_the_groups_are_the_policy_s_and_are_judged_by_the_anchor_s_lists(anchored: RunPaths) -> None:
    rows = pq.read_table(anchored.target("bond") / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(STEPS))
    for row in rows:
        assert max(row["logprob_gap"], row["rollout_gap"]) < 1e-4  # the anchor's lists would be off by far more
        assert row["lists"] == TRAIN_PROMPTS * 4
        assert {"reward", "reward/ndcg@3", "anchor_reward", "informative_groups"} <= row.keys()
        assert 0 < row["informative_groups"] <= 1
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # policy and anchor both start as the reference
    assert rows[1]["kl"] > 1e-5
    assert rows[0]["anchor_reward"] != rows[0]["reward"]


@pytest.fixture(scope="module")
def refreshed(anchored: RunPaths, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Three steps of static, the second and third with reference lists by the policy, on the prior of the run above."""
    config = with_settings(
        tiny_config,
        tmp_path_factory.mktemp("refreshed") / "run",
        train={"steps": 3, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": 1}
        | {"keep_checkpoints": 3},
        learner={"lr": 1e-2},
        prior={"refresh_every": 1},
    ).model_copy(update={"target": "static"})
    shutil.copyfile(anchored.prior, RunPaths(config.run.dir).prior)
    align_stage(open_run(config), Console(quiet=True))
    return config


def test_a_refreshed_prior_is_what_the_policy_writes(
    refreshed: Config, anchored: RunPaths, tiny_data: DataBundle
) -> None:
    paths = RunPaths(refreshed.run.dir)
    rows = pq.read_table(paths.target("static") / "metrics.parquet").to_pylist()
    assert [row["prior_refreshed"] for row in rows] == [0, 1, 1]
    assert paths.prior.read_bytes() == anchored.prior.read_bytes()

    saved = checkpoints(paths, "static")
    prompts = np.sort(prompts_of_step(refreshed.run.seed, 2, 16, TRAIN_PROMPTS))
    prompts = open_run(refreshed).rows[prompts]
    prompter = Prompter(tiny_data.train, tiny_data.codec, refreshed.run.seed, True)
    request = prompter.request(prompts, 4, 1.0, ("refresh", 2))
    roles = place_here(refreshed, learners=False).engines
    with (
        engines(refreshed, paths, saved[2] / "policy", roles) as pool,
        scorer(refreshed, paths.data, "train") as reward,
    ):
        expected = ray.get(reward.score(pool.generate(request))).total
    prior = open_prior(open_run(refreshed))
    assert prior is not None
    renewals = Renewals(4)
    with pa.BufferReader((saved[3] / "estimator.arrow").read_bytes()) as streams:
        pa.ipc.open_stream(streams).read_all()
        renewals.read(streams, prior.where)
    rows = prior.where(prompts)
    stored = renewals.newest.over(rows, prior.rewards[rows])
    np.testing.assert_array_equal(stored, np.sort(expected, axis=1))
    assert not np.array_equal(stored, prior.rewards[rows])
