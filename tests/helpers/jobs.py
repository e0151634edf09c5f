"""Trainings in the real program, which tests stop, kill and start again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.console import Console
from safetensors.torch import load_file

from blade_dist.settings.load import load_config
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.run import RunPaths

PATIENCE_S = 600


def start(folder: Path) -> subprocess.Popen[bytes]:
    """``train`` by ``job.yaml``; what it says goes to ``log``."""
    # a Ray of its own, and a session of its own, so that the signal reaches all of it
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    command = [sys.executable, "-m", "blade_dist", "train", str(folder / "job.yaml")]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def wait_for(condition: Callable[[], object], job: Path, program: subprocess.Popen[bytes]) -> None:
    """Until it holds, while the program runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert program.poll() is None, (job / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def undisturbed(job: Path, inputs: Path) -> RunPaths:
    """The same job that nobody stops, from the same data, reference and prior."""
    whole = RunPaths(job / "whole")
    whole.root.mkdir()
    for part in ("data", "sft", "prior.arrow"):
        (whole.root / part).symlink_to(inputs / part)
    config = load_config(job / "job.yaml", [f"run.dir={whole.root}", "run.copy_to=null", "ray.address=null"])
    align_stage(open_run(config), Console(file=StringIO()))
    return whole


def assert_same(ours: RunPaths, whole: RunPaths) -> None:
    """Rows and weights, bit for bit: seeds, batches and order of additions are the same.

    Over hundreds of steps batches may differ.
    """
    rows, plain_rows = (pq.read_table(of.target("blade") / "metrics.parquet").to_pylist() for of in (ours, whole))
    timings = [name for name in rows[0] if name.startswith("seconds/") or name.endswith("_per_second")]
    for row, plain in zip(rows, plain_rows, strict=True):
        assert {"reward", "kl", "loss", "grad_norm", "posterior/tau"} <= row.keys() - set(timings)
        assert _drop(row, timings) == _drop(plain, timings)
    mine, others = (load_file(of.policy("blade") / "model.safetensors") for of in (ours, whole))
    for name, weights in others.items():
        assert torch.equal(mine[name], weights), name


def _drop(row: dict, names: list[str]) -> dict:
    return {name: value for name, value in row.items() if name not in names}
