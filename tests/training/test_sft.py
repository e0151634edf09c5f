"""The fine-tuning's checkpoint, with the real learner; Ray Train's part, keeping the newest folder, is a double."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
import torch
from safetensors.torch import load_file

from blade_dist.data.bundle import DataBundle
from blade_dist.settings import Config
from blade_dist.training.sft import SftJob, fine_tune
from tests.helpers.ranks import free_port, run_ranks

EPOCHS, INTERRUPTED_AFTER = 5, 2


class InterruptionError(Exception):
    """As a worker's death."""


def fine_tuned(config: Config, kept: Path, interrupted_after: int | None) -> dict[str, torch.Tensor]:
    """Weights of the newest checkpoint in ``kept``, where the fine-tuning starts if there is one, and the losses."""
    losses: list[float] = []
    saved = 0

    def report(_: dict[str, float], checkpoint: ray.train.Checkpoint) -> None:
        nonlocal saved
        shutil.copytree(checkpoint.path, kept, dirs_exist_ok=True)
        saved += 1
        if saved == interrupted_after:
            raise InterruptionError

    def record(_: int, row: dict[str, float]) -> None:
        losses.extend((row["loss"], row["validation_ndcg"]))

    modules: Any = (ray, ray.train)  # this process is a rank's, not the test's
    modules[0].get = lambda reference: reference
    modules[1].report = report
    modules[1].get_checkpoint = lambda: ray.train.Checkpoint.from_directory(kept) if kept.exists() else None
    tracker = SimpleNamespace(record=SimpleNamespace(remote=record), flush=SimpleNamespace(remote=lambda: None))
    with suppress(InterruptionError):
        fine_tune(SftJob(config, config.run.dir, tracker))
    torch.distributed.barrier()  # the first rank has the weights
    return load_file(kept / "policy" / "model.safetensors") | {"losses": torch.tensor(losses, dtype=torch.float64)}


def test_a_resumed_fine_tuning_repeats_the_uninterrupted_one(
    semantic_run: tuple[Config, DataBundle], tmp_path: Path
) -> None:
    """With all that it has where an item is one token: features, lists that go on, the count that it imitates."""
    config, _ = semantic_run
    changed = {"epochs": EPOCHS, "lr": 0.1, "patience": 3, "distillation": 0.5}  # a rate that overshoots
    config = config.model_copy(update={"sft": config.sft.model_copy(update=changed)})
    cut = {"config": config, "kept": tmp_path / "cut"}
    cases = {
        "whole": {"config": config, "kept": tmp_path / "whole", "interrupted_after": None},
        "first": {**cut, "interrupted_after": INTERRUPTED_AFTER},
        "rest": {**cut, "interrupted_after": None},
    }
    runs = run_ranks(1, cases, tmp_path, free_port(), fine_tuned)
    assert len(runs["first"]["losses"]) == 2 * INTERRUPTED_AFTER
    assert torch.equal(torch.cat([runs["first"]["losses"], runs["rest"]["losses"]]), runs["whole"]["losses"])
    weights = runs["whole"].keys() - {"losses"}
    assert weights
    assert all(torch.equal(runs["rest"][name], runs["whole"][name]) for name in weights)
    resumed, whole = (json.loads((tmp_path / run / "progress.json").read_text()) for run in ("cut", "whole"))
    assert resumed | {"seconds": 0} == whole | {"seconds": 0}
    validated = runs["whole"]["losses"][1::2]
    assert whole["patience"]["best"] == pytest.approx(float(validated.max()))
    assert whole["patience"]["without_better"] == len(validated) - 1 - int(validated.argmax())


def test_sharded_weights_learn_what_whole_ones_do(tiny_config: Config, tiny_data: DataBundle, tmp_path: Path) -> None:
    sft = tiny_config.sft.model_copy(update={"epochs": 1, "dropout": 0.0})  # what is dropped differs between ranks
    whole = tiny_config.model_copy(update={"sft": sft})
    sharded = whole.model_copy(update={"learner": whole.learner.model_copy(update={"zero_stage": 3, "workers": 2})})
    cases = {name: {"kept": tmp_path / name, "interrupted_after": None} for name in ("whole", "sharded")}
    runs = run_ranks(1, {"whole": cases["whole"] | {"config": whole}}, tmp_path, free_port(), fine_tuned)
    runs |= run_ranks(2, {"sharded": cases["sharded"] | {"config": sharded}}, tmp_path, free_port(), fine_tuned)
    assert runs["whole"].keys() == runs["sharded"].keys()
    assert float(runs["sharded"]["losses"][0]) == pytest.approx(float(runs["whole"]["losses"][0]), rel=1e-4)
    for name, expected in runs["whole"].items():  # AdamW makes whole steps of gradients that are next to nothing
        assert float((runs["sharded"][name] - expected).norm() / expected.norm()) < 0.05, name
