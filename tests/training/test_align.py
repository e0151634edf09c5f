"""The main job on the real stack: Ray Train, DeepSpeed, vLLM and the actors between them, end to end."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.posterior.prior import SCALES_KEY
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.stages.prior import prior_stage
from blade_dist.store.policy import read_policy
from blade_dist.store.run import RunPaths
from tests.helpers.runs import TRAIN_PROMPTS, with_settings


def first_moment(paths: RunPaths) -> torch.Tensor:
    """Adam's first moment after one step: (1 - beta1) times the gradient."""
    files = (paths.target("blade") / "learners").glob("checkpoint_*/optimizer/*.safetensors")
    saved = {key: numbers for file in files for key, numbers in load_file(file).items()}
    return torch.cat([saved[key] for key in sorted(saved) if key.endswith("/exp_avg")])


def test_two_ranks_and_engines_take_the_same_first_step(trained: dict[int, RunPaths]) -> None:
    one, two = first_moment(trained[1]), first_moment(trained[2])
    assert one.norm() > 0
    assert float((one - two).norm() / one.norm()) < 1e-5


def test_a_step_is_recorded(trained: dict[int, RunPaths]) -> None:
    for paths in trained.values():
        (row,) = pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()
        assert row["step"] == 0
        assert row["lists"] == TRAIN_PROMPTS * 4
        assert row["logprob_gap"] < 1e-4
        assert row["rollout_gap"] < 1e-4
        assert row["kl"] == pytest.approx(0, abs=1e-6)  # the policy starts as the reference
        assert row["importance_weight"] == pytest.approx(1, abs=1e-4)
        assert {"reward/ndcg@3", "reward/ild@3", "seconds/push", "seconds/learn", "seconds/save"} <= row.keys()


def test_the_aligned_policy_is_a_checkpoint_of_its_own(trained: dict[int, RunPaths], tiny_data: DataBundle) -> None:
    paths = trained[1]
    stamp = read_policy(paths.policy("blade"), tiny_data.codec.fingerprint())
    assert (stamp.policy, stamp.step) == ("blade", 1)
    assert stamp.weights != read_policy(paths.reference, tiny_data.codec.fingerprint()).weights


def test_a_finished_run_is_not_repeated(trained: dict[int, RunPaths], tiny_config: Config) -> None:
    paths = trained[1]
    before = (paths.policy("blade") / "model.safetensors").stat().st_mtime_ns
    values = tiny_config.model_dump()
    values["run"]["dir"] = paths.root
    values["train"].update(steps=1, prompts=16, prompts_per_step=TRAIN_PROMPTS)
    values["learner"].update(clip_grad=0.0)
    console = Console(record=True, width=200)
    align_stage(open_run(Config.model_validate(values)), console)
    assert "already there" in console.export_text()
    assert (paths.policy("blade") / "model.safetensors").stat().st_mtime_ns == before


def test_a_gap_beyond_the_tolerance_stops_the_run(
    trained: dict[int, RunPaths], tiny_config: Config, tmp_path: Path
) -> None:
    config = with_settings(
        tiny_config,
        tmp_path / "run",
        train={"steps": 1, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "max_failures": 0},
        weights={"tolerance": 1e-12},
    )
    (tmp_path / "run" / "prior.arrow").write_bytes(trained[1].prior.read_bytes())
    with pytest.raises(Exception, match=r"differ from the learner's by .* all \d+ parameters arrived as sent"):
        align_stage(open_run(config), Console(quiet=True))
    assert not RunPaths(config.run.dir).policy("blade").exists()


def test_the_prior_is_sorted_and_whole(trained: dict[int, RunPaths], tiny_config: Config, tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(trained[1].prior))).read_all()
    rewards = np.array(table["rewards"].to_pylist())
    assert rewards.shape == (16, 4)
    assert (np.diff(rewards, axis=1) >= 0).all()
    config = with_settings(tiny_config, tmp_path / "run", train={"prompts": 16})
    RunPaths(config.run.dir).prior.write_bytes(trained[1].prior.read_bytes())
    console = Console(record=True, width=200)
    prior_stage(open_run(config), console)
    assert f"64 reference lists of 16 prompts: reward {rewards.mean():.4g} on average" in console.export_text()


@pytest.fixture(scope="module")
def ahead(
    trained: dict[int, RunPaths], tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, float]]:
    """Steps with lists of up to two steps ago, and without a KL."""
    config = with_settings(
        tiny_config,
        tmp_path_factory.mktemp("ahead") / "run",
        train={"steps": 5, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": 5},
        rollout={"max_staleness": 2},
        learner={"kl_coef": 0.0},
    )
    paths = RunPaths(config.run.dir)
    paths.prior.write_bytes(trained[1].prior.read_bytes())
    align_stage(open_run(config), Console(quiet=True))
    return pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()


def test_generation_runs_ahead_by_max_staleness(ahead: list[dict[str, float]], trained: dict[int, RunPaths]) -> None:
    assert [row["staleness"] for row in ahead] == [0, 1, 2, 2, 2]
    assert [row["rollout_gap"] < 1e-4 for row in ahead] == [True, False, False, False, False]
    (first,) = pq.read_table(trained[1].target("blade") / "metrics.parquet").to_pylist()
    assert ahead[0]["reward"] == first["reward"]


def test_without_a_kl_none_is_measured(ahead: list[dict[str, float]], trained: dict[int, RunPaths]) -> None:
    """The first step's loss is that of a run with a KL, which is 0 there: both start as the reference."""
    (first,) = pq.read_table(trained[1].target("blade") / "metrics.parquet").to_pylist()
    assert set(first) - set(ahead[0]) == {"kl"}
    assert ahead[0]["loss"] == pytest.approx(first["loss"], abs=1e-7)
    assert all(np.isfinite(list(row.values())).all() for row in ahead)


def test_lists_are_as_long_in_training_as_the_reward_looks(
    trained: dict[int, RunPaths], tiny_config: Config, tiny_data: DataBundle, tmp_path: Path
) -> None:
    config = with_settings(
        tiny_config,
        tmp_path / "run",
        train={"steps": 1, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS},
        rollout={"k": 2},
        reward={"weights": {"ndcg@2": 1.0, "ild@2": 0.3}},
    )
    align_stage(open_run(config), Console(quiet=True))
    paths = RunPaths(config.run.dir)
    (row,) = pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()
    (whole,) = pq.read_table(trained[1].target("blade") / "metrics.parquet").to_pylist()
    assert row["list_tokens"] <= tiny_data.codec.max_list_tokens(2)
    assert whole["list_tokens"] > row["list_tokens"]
    assert row["invalid"] == row["duplicate"] == 0
    assert max(row["logprob_gap"], row["rollout_gap"]) < 1e-4
    assert load_config(paths.target("blade") / "config.yaml").lists.k == 3
    shutil.copyfile(trained[1].prior, paths.prior)
    with pytest.raises(UserError, match=r"reward\.weights\.ild@2: None there, 0\.3 now"):
        prior_stage(open_run(config), Console(quiet=True))


def test_validation_chooses_the_checkpoint_and_stops_the_run(
    trained: dict[int, RunPaths], tiny_config: Config, tiny_data: DataBundle, tmp_path: Path
) -> None:
    """With a learning rate that ruins the policy."""
    config = with_settings(
        tiny_config,
        tmp_path / "run",
        train={"steps": 40, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": 1}
        | {"validation_prompts": 24, "patience": 3, "keep_checkpoints": 1},
        learner={"lr": 0.1},
    )
    (tmp_path / "run" / "prior.arrow").write_bytes(trained[1].prior.read_bytes())
    said = StringIO()
    align_stage(open_run(config), Console(file=said, width=120))
    paths = RunPaths(config.run.dir)
    rows = pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()
    seen = [row["validation"] for row in rows]
    best = int(np.argmax(seen))
    assert len(rows) == best + 1 + 3 < 40
    step = read_policy(paths.policy("blade"), tiny_data.codec.fingerprint()).step
    assert seen[step - 1] == seen[best]  # one of the best, where several are equal
    for row in rows:
        weighed = (weight * row[f"validation/{name}"] for name, weight in config.reward.weights.items())
        assert row["validation"] == pytest.approx(sum(weighed))
    # lists are sampled for the same prompts before the first step, and at every checkpoint
    assert [row["fresh_reward/start"] is None for row in rows] == [False] + [True] * (len(rows) - 1)
    assert rows[-1]["fresh_reward"] != rows[0]["fresh_reward/start"]
    assert all(row["fresh_error"] > 0 for row in rows)
    table = [line.split() for line in said.getvalue().splitlines() if "±" in line]
    assert [table[0][1], table[-1][1]] == ["0", str(len(rows))]
    assert f"{rows[0]['fresh_reward/start']:.4f}" in table[0]


@pytest.fixture(scope="module")
def adapted(
    tiny_config: Config, tiny_data: DataBundle, tiny_reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunPaths, list[dict]]:
    """Two steps with adapters, tau: auto, a normalised reward, a floor, and four prompts with half of the lists."""
    assert tiny_reference.is_dir()
    config = with_settings(
        tiny_config,
        tmp_path_factory.mktemp("adapted") / "run",
        train={"steps": 2, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS},
        learner={"workers": 2, "zero_stage": 3, "lr": 1e-2, "lora": {"rank": 8}},
        posterior={"tau": "auto"},
        prior={"prompts": 12, "cold_size": 2},
        reward={"at_least": {"recall@3": 0.2}, "normalise": True},
    )
    align_stage(open_run(config), Console(quiet=True))
    paths = RunPaths(config.run.dir)
    return paths, pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()


def test_with_lora_only_adapters_move(adapted: tuple[RunPaths, list[dict]]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    paths, (first, second) = adapted
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] > 1e-6
    assert max(row[name] for row in (first, second) for name in ("logprob_gap", "rollout_gap")) < 1e-4
    policy = paths.policy("blade")
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(paths.reference), policy / "adapter")
    sizes = [p.numel() * 4 for name, p in adapter.named_parameters() if "lora_" in name]
    assert first["push_bytes"] == sum(sizes)
    tokens = torch.arange(4, 30)[None]
    merged = AutoModelForCausalLM.from_pretrained(policy)
    torch.testing.assert_close(merged(tokens).logits, adapter(tokens).logits, rtol=0, atol=1e-5)


def test_the_belief_is_recorded(adapted: tuple[RunPaths, list[dict]]) -> None:
    import pyarrow as pa

    paths, (first, second) = adapted
    for row in (first, second):
        assert row["posterior/tau"] == pytest.approx(4 / (row["posterior/strength"] + 1 + 4))
        assert 0 <= row["posterior/miscalibration"] < 1
        assert 0 < row["posterior/band_low"] < row["posterior/band_high"] < 1
        assert row["posterior/band"] == pytest.approx(row["posterior/band_high"] - row["posterior/band_low"])
        assert sum(row[f"posterior/pit_{number}"] for number in range(10)) == pytest.approx(1)
    missed = 0.2 - first["reward/recall@3"]
    assert (first["multiplier/recall@3"], second["multiplier/recall@3"]) == (0, pytest.approx(max(0, 0.5 * missed)))
    table = pa.ipc.open_file(pa.memory_map(str(paths.prior))).read_all()
    assert table.column_names == ["prompt", "rewards", "part:recall@3"]
    assert sorted(np.isnan(np.array(table["rewards"].to_pylist())).sum(axis=1)) == [0] * 12 + [2] * 4


def test_a_normalised_reward_is_in_units_of_the_prior_s_spread(
    adapted: tuple[RunPaths, list[dict]], tiny_config: Config
) -> None:
    import pyarrow as pa

    paths, rows = adapted
    stored = pa.ipc.open_file(pa.memory_map(str(paths.prior))).schema.metadata
    scales = json.loads(stored[SCALES_KEY])
    assert set(scales) == set(tiny_config.reward.weights)  # recall@3 has a floor and no weight
    assert all(0 < scale < 1 for scale in scales.values())
    for row in rows:
        weighed = (weight / scales[n] * row[f"reward/{n}"] for n, weight in tiny_config.reward.weights.items())
        assert row["reward"] == pytest.approx(sum(weighed))


def test_a_floor_needs_a_prior_that_knows_its_metric(
    trained: dict[int, RunPaths], tiny_config: Config, tmp_path: Path
) -> None:
    config = with_settings(tiny_config, tmp_path / "run", reward={"at_least": {"ndcg@3": 0.01}}, train={"prompts": 16})
    (tmp_path / "run" / "prior.arrow").write_bytes(trained[1].prior.read_bytes())
    with pytest.raises(UserError, match=r"at_least and reward\.at_most: \[\] there, \['ndcg@3'\] now; it stays"):
        align_stage(open_run(config), Console(quiet=True))
