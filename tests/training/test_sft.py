"""The fine-tuning's checkpoint, with the real learner; Ray Train's part, naming the newest folder, is a double."""

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

import blade_dist.training.ending
import blade_dist.training.saving
from blade_dist.data.bundle import DataBundle
from blade_dist.settings import Config
from blade_dist.store.checkpoints import LEARNERS, PROGRESS, take_whole
from blade_dist.store.run import RunPaths
from blade_dist.training.sft import SftJob, fine_tune
from tests.helpers.ranks import free_port, run_ranks

EPOCHS, INTERRUPTED_AFTER = 5, 2
ASKED_AFTER = 2
"""Looks at whether it shall end, in the middle of an epoch."""


class InterruptionError(Exception):
    """As a worker's death."""


def in_folder(config: Config, run: Path) -> Config:
    """The same with checkpoints in a folder of its own."""
    run.mkdir()
    (run / "data").symlink_to(config.run.dir / "data")
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": run})})


def newest(config: Config) -> Path | None:
    """The newest whole checkpoint; where there are damaged ones, they step aside."""
    whole, _ = take_whole(RunPaths(config.run.dir).sft / LEARNERS)
    return whole[-1].folder if whole else None


def fine_tuned(
    config: Config, interrupted_after: int | None = None, asked_after: int | None = None, damaged: Path | None = None
) -> dict[str, torch.Tensor]:
    """Weights of the newest checkpoint, where the fine-tuning starts if there is one, and the losses.

    ``damaged``: a run whose checkpoints are copied before; a byte of the newest one is lost.
    """
    losses: list[float] = []
    saved = looks = 0

    def report(_: dict[str, float], __: ray.train.Checkpoint, **how: Any) -> None:
        nonlocal saved
        assert how == {"checkpoint_upload_mode": ray.train.CheckpointUploadMode.NO_UPLOAD}
        saved += 1
        if saved == interrupted_after:
            raise InterruptionError

    def record(_: int, row: dict[str, float]) -> None:
        losses.extend((row["loss"], row["validation_ndcg"]))

    def asked() -> bool:
        nonlocal looks
        looks += 1
        return asked_after is not None and looks > asked_after

    if damaged is not None:
        shutil.copytree(RunPaths(damaged).sft, RunPaths(config.run.dir).sft)
        file = max(RunPaths(config.run.dir).sft.glob("*/*/optimizer/rank-0.safetensors"))
        file.write_bytes(file.read_bytes()[:-1])
    start = newest(config)
    modules: Any = (ray, ray.train)  # this process is a rank's, not the test's
    modules[0].get = lambda reference: reference
    modules[1].report = report
    modules[1].get_checkpoint = lambda: None if start is None else ray.train.Checkpoint.from_directory(start)
    blade_dist.training.ending.LOOK_EVERY_S = 0.0
    saver: Any = blade_dist.training.saving.Saver
    saver.look = saver.finish  # the death comes between the same two steps, however fast the disk is
    calls = {"record": record, "flush": lambda: None, "asked_to_end": asked, "at": lambda _: None}
    tracker = SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})
    with suppress(InterruptionError):
        fine_tune(SftJob(config, config.run.dir, tracker))
    torch.distributed.barrier()  # the first rank has the weights
    policy = load_file(must(newest(config)) / "policy" / "model.safetensors")
    return policy | {"losses": torch.tensor(losses, dtype=torch.float64)}


def must(folder: Path | None) -> Path:
    assert folder is not None
    return folder


def test_a_resumed_fine_tuning_repeats_the_uninterrupted_one(
    semantic_run: tuple[Config, DataBundle], tmp_path: Path
) -> None:
    """With all that it has where an item is one token: features, lists that go on, the count that it imitates."""
    config, _ = semantic_run
    changed = {"epochs": EPOCHS, "lr": 0.1, "patience": 3, "distillation": 0.5}  # a rate that overshoots
    config = config.model_copy(update={"sft": config.sft.model_copy(update=changed)})
    whole, cut, damaged = (in_folder(config, tmp_path / name) for name in ("whole", "cut", "damaged"))
    cases = {
        "uninterrupted": {"config": whole},
        "first": {"config": cut, "interrupted_after": INTERRUPTED_AFTER},
        "asked": {"config": cut, "asked_after": ASKED_AFTER},
        "back": {"config": damaged, "damaged": cut.run.dir},  # what was saved when it was asked to end is lost
        "rest": {"config": cut},
    }
    runs = run_ranks(1, cases, tmp_path, free_port(), fine_tuned)
    assert len(runs["first"]["losses"]) == 2 * INTERRUPTED_AFTER
    assert not len(runs["asked"]["losses"])  # it ended between two validations, and what it did is saved
    uninterrupted = runs["uninterrupted"]
    weights = uninterrupted.keys() - {"losses"}
    assert weights
    expected = progress(whole)
    for rest, folder in (("rest", cut), ("back", damaged)):
        assert torch.equal(torch.cat([runs["first"]["losses"], runs[rest]["losses"]]), uninterrupted["losses"])
        assert all(torch.equal(runs[rest][name], uninterrupted[name]) for name in weights)
        assert progress(folder) == expected
    assert len(list(tmp_path.glob("damaged/sft/learners/damaged_*"))) == 1
    validated = uninterrupted["losses"][1::2]
    assert expected["patience"]["best"] == pytest.approx(float(validated.max()))
    assert expected["patience"]["without_better"] == len(validated) - 1 - int(validated.argmax())


def progress(config: Config) -> dict[str, Any]:
    """Of the newest checkpoint, but for the seconds."""
    return json.loads((must(newest(config)) / PROGRESS).read_text()) | {"seconds": 0}


def test_sharded_weights_learn_what_whole_ones_do(tiny_config: Config, tiny_data: DataBundle, tmp_path: Path) -> None:
    sft = tiny_config.sft.model_copy(update={"epochs": 1, "dropout": 0.0})  # what is dropped differs between ranks
    whole = tiny_config.model_copy(update={"sft": sft})
    sharded = whole.model_copy(update={"learner": whole.learner.model_copy(update={"zero_stage": 3, "workers": 2})})
    cases = {name: {"config": in_folder(of, tmp_path / name)} for name, of in (("whole", whole), ("sharded", sharded))}
    runs = run_ranks(1, {"whole": cases["whole"]}, tmp_path, free_port(), fine_tuned)
    runs |= run_ranks(2, {"sharded": cases["sharded"]}, tmp_path, free_port(), fine_tuned)
    assert runs["whole"].keys() == runs["sharded"].keys()
    assert float(runs["sharded"]["losses"][0]) == pytest.approx(float(runs["whole"]["losses"][0]), rel=1e-4)
    for name, expected in runs["whole"].items():  # AdamW makes whole steps of gradients that are next to nothing
        assert float((runs["sharded"][name] - expected).norm() / expected.norm()) < 0.05, name
