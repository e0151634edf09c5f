"""Ray Train's own manager of checkpoints goes on from the newest whole one, whatever happened to its folder."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from blade_dist.errors import UserError
from blade_dist.stages.resume import SNAPSHOT, find_start
from blade_dist.store.checkpoints import LEARNERS, Layout, checkpoint_folder, unfinished_folder
from tests.store.test_checkpoints import save

PLAIN = CheckpointConfig(num_to_keep=2)
BEST = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="score")
WORST = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="min")
SCORES = {4: 0.3, 8: float("nan"), 12: None, 16: 0.3, 20: 0.2, 24: 0.1}


def manager(stage: Path, kept: CheckpointConfig) -> CheckpointManager:
    """As Ray Train makes it when it starts in the stage's folder."""
    return CheckpointManager(kept, StorageContext(str(stage), LEARNERS))


async def report(ours: CheckpointManager, stage: Path, step: int, score: float | None) -> None:
    """Saves a checkpoint and tells Ray Train, as the learners do."""
    folder = save(stage / LEARNERS, step, score)
    numbers = {"step": step} if score is None else {"step": step, "score": score}
    ours.register_checkpoint(_TrainingReport(Checkpoint.from_directory(folder), numbers, validation=False))


def latest(ours: CheckpointManager) -> str:
    assert ours.latest_checkpoint_result is not None
    return Path(ours.latest_checkpoint_result.checkpoint.path).name


@pytest.mark.parametrize("kept", [PLAIN, BEST, WORST])
def test_the_list_is_the_one_that_ray_train_wrote(tmp_path: Path, kept: CheckpointConfig) -> None:
    """Without the numbers of reports, which only break ties in the order that they have here too."""

    async def training() -> None:
        ray_train = manager(tmp_path, kept)
        for step, score in SCORES.items():
            await report(ray_train, tmp_path, step, score)

    asyncio.run(training())
    written = json.loads((tmp_path / LEARNERS / SNAPSHOT).read_text())
    start = find_start(tmp_path, Layout(), kept)
    assert (start.step, start.lines) == (24, [])
    ours = json.loads((tmp_path / LEARNERS / SNAPSHOT).read_text())
    assert ours.keys() == written.keys()
    for name in ours.keys() - {"checkpoint_report_indices", "current_report_index"}:
        assert str(ours[name]) == str(written[name])  # as NaN is not equal to itself
    for of in (ours, written):
        indices = of["checkpoint_report_indices"]
        steps = [result["metrics"]["step"] for result in of["checkpoint_results"]]
        assert sorted(range(len(steps)), key=indices.__getitem__) == sorted(range(len(steps)), key=steps.__getitem__)


@pytest.mark.parametrize("half", [None, "", '{"ray_version": "2.', "{}"])
def test_a_damaged_newest_checkpoint_and_a_damaged_list_stop_nothing(tmp_path: Path, half: str | None) -> None:
    async def training() -> None:
        ray_train = manager(tmp_path, PLAIN)
        for step in (4, 8):
            await report(ray_train, tmp_path, step, None)

    asyncio.run(training())
    unfinished_folder(tmp_path / LEARNERS, 12).mkdir()
    with (checkpoint_folder(tmp_path / LEARNERS, 8) / "weights").open("r+b") as file:
        file.write(b"v")
    if half is not None:
        (tmp_path / LEARNERS / SNAPSHOT).write_text(half)
    start = find_start(tmp_path, Layout(), PLAIN)
    assert start.step == 4
    assert len(start.lines) == 1
    assert latest(manager(tmp_path, PLAIN)) == "checkpoint_00000004"

    async def rest() -> None:
        ray_train = manager(tmp_path, PLAIN)
        for step in (8, 12):
            await report(ray_train, tmp_path, step, None)

    asyncio.run(rest())
    assert find_start(tmp_path, Layout(), PLAIN) == find_start(tmp_path, Layout(), PLAIN)
    assert latest(manager(tmp_path, PLAIN)) == "checkpoint_00000012"
    assert sorted(path.name for path in (tmp_path / LEARNERS).glob("c*_0*")) == [
        "checkpoint_00000008",
        "checkpoint_00000012",
    ]


def test_a_checkpoint_that_was_deleted_by_hand_is_not_missed(tmp_path: Path) -> None:
    async def training() -> None:
        ray_train = manager(tmp_path, PLAIN)
        for step in (4, 8):
            await report(ray_train, tmp_path, step, None)

    asyncio.run(training())
    shutil.rmtree(checkpoint_folder(tmp_path / LEARNERS, 8))
    with pytest.raises(CheckpointManagerInitializationError):
        manager(tmp_path, PLAIN)
    assert find_start(tmp_path, Layout(), PLAIN).step == 4
    assert latest(manager(tmp_path, PLAIN)) == "checkpoint_00000004"


def test_a_checkpoint_that_ray_train_never_heard_of_is_gone_on_from(tmp_path: Path) -> None:
    save(tmp_path / LEARNERS, 4)
    assert find_start(tmp_path, Layout(), BEST).step == 4
    assert latest(manager(tmp_path, BEST)) == "checkpoint_00000004"


def test_without_a_whole_checkpoint_the_training_begins_anew(tmp_path: Path) -> None:
    assert find_start(tmp_path, Layout(), PLAIN).step == 0
    (save(tmp_path / LEARNERS, 4) / "weights").unlink()
    (tmp_path / LEARNERS / SNAPSHOT).write_text("{")
    start = find_start(tmp_path, Layout(), PLAIN)
    assert start.step == 0
    assert "begins anew" in start.lines[-1]
    assert manager(tmp_path, PLAIN).latest_checkpoint_result is None


def test_another_layout_goes_on_and_is_named(tmp_path: Path) -> None:
    save(tmp_path / LEARNERS, 4, layout=Layout(1, 0))
    save(tmp_path / LEARNERS, 8, layout=Layout(2, 3))
    start = find_start(tmp_path, Layout(1, 0), PLAIN)
    assert start.step == 8
    (line,) = start.lines
    assert "changed from 2 learner(s) of ZeRO stage 3 to 1 learner(s) of ZeRO stage 0: these go on from step 8" in line
    assert find_start(tmp_path, Layout(2, 3), PLAIN).lines == []


def test_checkpoints_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    save(tmp_path / LEARNERS, 4, layout=None)
    with pytest.raises(UserError, match="the checkpoints there are of an earlier version"):
        find_start(tmp_path, Layout(), PLAIN)
