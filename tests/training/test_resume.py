"""A training job that is killed goes on from its last whole checkpoint, in the real program, as if never killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from io import StringIO
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.stages.resume import SNAPSHOT
from blade_dist.store.checkpoints import LEARNERS, PROGRESS, checkpoint_folder, saved_step, unfinished_folder
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths
from tests.helpers.jobs import PATIENCE_S, assert_same, start, undisturbed, wait_for
from tests.helpers.runs import TRAIN_PROMPTS, with_settings

STEPS, EVERY = 32, 4
"""On a fast machine some ten steps are done until the first one is shown, and stopped at."""


@pytest.fixture
def job(tiny_config: Config, tiny_reference: Path, trained: dict[int, RunPaths], tmp_path: Path) -> Path:
    """Settings of a short ZeRO-3 job on two ranks."""
    assert tiny_reference.is_dir()
    config = with_settings(
        tiny_config,
        tmp_path / "run",
        train={"steps": STEPS, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": EVERY},
        learner={"workers": 2, "zero_stage": 3},
        posterior={"carry": 0.5},
    )
    (tmp_path / "run" / "prior.arrow").write_bytes(trained[1].prior.read_bytes())
    write_text(tmp_path / "job.yaml", dump_config(config))
    return tmp_path


def kill_actor(program: subprocess.Popen[bytes], name: str) -> None:
    """The program's actor of the class ``name`` (one, where it has several)."""
    below = psutil.Process(program.pid).children(recursive=True)
    next(process for process in below if process.cmdline()[:1] and name in process.cmdline()[0]).kill()


def damage(folder: Path) -> None:
    """Turns a bit of the checkpoint's optimizer, and leaves half of another one and of Ray Train's list."""
    file = min((folder / "optimizer").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (folder.parent / SNAPSHOT).write_text('{"ray_version": "2.')
    unfinished_folder(folder.parent, STEPS).mkdir(exist_ok=True)


def progress(folder: Path) -> dict:
    return json.loads((folder / PROGRESS).read_text())


def test_a_stopped_and_then_killed_job_goes_on_as_if_it_never_had_been(job: Path) -> None:
    """From the second-newest checkpoint, as the newest one is damaged; and with actors that die on the way."""
    paths = RunPaths(job / "run")
    saved = paths.target("blade") / LEARNERS
    asked = start(job)
    wait_for(lambda: "step 1/" in (job / "log").read_text(), job, asked)
    asked.send_signal(signal.SIGTERM)  # the step is finished and saved
    assert asked.wait(PATIENCE_S) == 128 + signal.SIGTERM, (job / "log").read_text()[-3000:]
    (step,) = re.findall(r"stopped by SIGTERM: .* is saved after step (\d+); ", (job / "log").read_text())
    assert saved_step(saved) == int(step) < STEPS

    first = start(job)
    wait_for(lambda: saved_step(saved) > int(step), job, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not paths.policy("blade").exists()
    older, damaged = sorted(path.parent for path in saved.glob("checkpoint_*/manifest.json"))[-2:]
    damage(damaged)
    began = progress(older)

    second = start(job)
    wait_for(lambda: not damaged.exists(), job, second)  # until it is moved aside it counts as saved
    for number, actor in enumerate(("_StoredScorer", "_StoredEstimator", "StepPipeline"), start=1):
        wait_for(lambda: saved_step(saved) >= began["step"] + number * EVERY, job, second)  # noqa: B023
        kill_actor(second, actor)
    assert second.wait(PATIENCE_S) == 0, (job / "log").read_text()[-3000:]
    rows = pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(STEPS))
    log = (job / "log").read_text()
    assert f"{damaged} is skipped: optimizer/" in log
    assert f"train: goes on from step {began['step']}, saved in {saved}" in log
    ended = progress(checkpoint_folder(saved, STEPS))
    # the learners began anew where an actor with a memory had died, and where it is the scorer they noticed nothing
    assert (ended["attempt"], ended["step"]) == (began["attempt"] + 3, STEPS)

    assert_same(paths, undisturbed(job, paths.root))


def test_another_layout_goes_on_where_the_one_before_was(job: Path) -> None:
    """Two ranks of ZeRO stage 3, then one that holds all of it: it goes the step that they would have gone."""

    def aligned(name: str, steps: int, *layout: str) -> tuple[list[dict], str]:
        changes = [f"run.dir={job / name}", f"train.steps={steps}", "learner.schedule=constant", *layout]
        run, said = open_run(load_config(job / "job.yaml", changes)), StringIO()
        align_stage(run, Console(file=said, width=400))
        return pq.read_table(run.paths.target("blade") / "metrics.parquet").to_pylist(), said.getvalue()

    aligned("run", EVERY)
    shutil.copytree(job / "run", job / "other")
    (*_, same), said = aligned("run", EVERY + 1)
    assert "the layout changed" not in said
    rows, said = aligned("other", EVERY + 1, "learner.workers=1", "learner.zero_stage=0")
    assert "the layout changed from 2 learner(s) of ZeRO stage 3 to 1 learner(s) of ZeRO stage 0" in said
    assert [row["step"] for row in rows] == list(range(EVERY + 1))
    lists = ["reward", "posterior/tau", "informative_groups", "list_tokens", "lr"]  # weights, evidence, prompts
    assert [rows[-1][name] for name in lists] == [same[name] for name in lists]
    for name in ("loss", "kl", "grad_norm"):
        assert rows[-1][name] == pytest.approx(same[name], rel=1e-3), name
