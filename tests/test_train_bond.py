"""J-BOND on the real stack: the anchor follows, is in the checkpoint, and writes what the policy is judged by."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from blade_dist.artifacts import RunPaths, mark, read_json
from blade_dist.data.bundle import DataBundle
from blade_dist.settings import Config
from blade_dist.stages.align import _stamp, align_stage
from blade_dist.stages.parts import check_inputs
from tests.conftest import TRAIN_PROMPTS, with_settings

ETA = 0.3
FIRST, STEPS = 2, 3


@pytest.fixture(scope="module")
def anchored(
    tiny_config: Config, tiny_data: DataBundle, tiny_reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunPaths:
    """Two steps on two ranks, and then, with other learners, one more from the checkpoint."""
    assert tiny_reference.is_dir()
    config = with_settings(
        tiny_config,
        tmp_path_factory.mktemp("anchored") / "run",
        train={"steps": FIRST, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS}
        | {"checkpoint_every": 1, "keep_checkpoints": STEPS},
        learner={"workers": 2, "zero_stage": 3, "lr": 1e-2},
    ).model_copy(update={"target": "bond", "bond": tiny_config.bond.model_copy(update={"eta": ETA})})
    align_stage(config, Console(quiet=True))
    paths = RunPaths(config.run.dir)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": STEPS})})
    mark(paths.target("bond"), _stamp(longer, check_inputs(longer)), done=False)
    align_stage(longer, Console(quiet=True))
    return paths


def checkpoints(paths: RunPaths) -> dict[int, Path]:
    """Folders by the number of steps that were done."""
    found = [
        (read_json(file), file.parent) for file in paths.target("bond").glob("learners/checkpoint_*/progress.json")
    ]
    return {progress["step"]: folder for progress, folder in found if progress is not None}


def test_the_anchor_moves_by_eta_also_from_a_checkpoint(anchored: RunPaths) -> None:
    saved = checkpoints(anchored)
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
