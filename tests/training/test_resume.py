"""A training job that is killed goes on from its last checkpoint, through the real program, as if it never had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages.align import align_stage
from blade_dist.stages.fit import check_ranks
from blade_dist.stages.opened import open_run
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths
from tests.helpers.runs import TRAIN_PROMPTS, with_settings

STEPS, EVERY = 8, 2
PATIENCE_S = 240


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


def start(folder: Path) -> subprocess.Popen[bytes]:
    # a Ray of its own, and a session of its own, so that the signal reaches all of it
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    command = [sys.executable, "-m", "blade_dist", "train", str(folder / "job.yaml")]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def drop(row: dict, names: list[str]) -> dict:
    return {name: value for name, value in row.items() if name not in names}


def test_a_killed_job_goes_on_from_its_checkpoint(job: Path) -> None:
    paths = RunPaths(job / "run")
    first = start(job)
    deadline = time.monotonic() + PATIENCE_S
    saved = paths.target("blade") / "learners"
    while not list(saved.glob("checkpoint_manager_snapshot.json")) or not list(
        saved.glob("checkpoint_*/progress.json")
    ):
        assert first.poll() is None, (job / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not paths.policy("blade").exists()

    second = start(job)
    assert second.wait(PATIENCE_S) == 0, (job / "log").read_text()[-3000:]
    rows = pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(STEPS))
    states = [json.loads(path.read_text()) for path in saved.glob("checkpoint_*/progress.json")]
    assert (2, STEPS) in [(state["attempt"], state["step"]) for state in states]
    with pytest.raises(
        UserError, match=r"learner\.workers: the checkpoints in .* are of 2 learners, and this run has 1"
    ):
        check_ranks(1, paths.target("blade"))

    whole = RunPaths(job / "whole")
    for part in ("data", "sft", "prior.arrow"):
        (job / "whole").mkdir(exist_ok=True)
        (job / "whole" / part).symlink_to(job / "run" / part)
    align_stage(open_run(load_config(job / "job.yaml", [f"run.dir={job / 'whole'}"])), Console(quiet=True))
    # Bit for bit: seeds, batches and order of additions are the same (over hundreds of steps batches may differ).
    timings = [name for name in rows[0] if name.startswith("seconds/") or name.endswith("_per_second")]
    for row, plain in zip(rows, pq.read_table(whole.target("blade") / "metrics.parquet").to_pylist(), strict=True):
        assert {"reward", "kl", "loss", "grad_norm", "posterior/tau"} <= row.keys() - set(timings)
        assert drop(row, timings) == drop(plain, timings)
    ours, plain = (load_file(of.policy("blade") / "model.safetensors") for of in (paths, whole))
    for name, weights in plain.items():
        assert torch.equal(ours[name], weights), name
