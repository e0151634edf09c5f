"""A run whose engines are killed and stopped on the way, on the real stack: it ends as one that nobody touched."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file

from blade_dist.rollouts.asked import Asked, Part
from blade_dist.rollouts.incident import NO_STACKS
from blade_dist.rollouts.pool import EnginePool, RunningPool
from blade_dist.settings import Config
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.run import RunPaths
from tests.helpers.runs import TRAIN_PROMPTS, with_settings


class Broken(EnginePool):
    """In the pipeline: kills one engine while it writes and then all, and stops the next one before the push."""

    asked, stopped = 0, False

    def _parts(self, asked: Asked, rows: NDArray[np.int64]) -> list[Part]:
        self.asked += 1
        if self.asked == 2:  # an engine is asked for what the first one wrote at
            self.strike(signal.SIGKILL, most=2)
        parts = super()._parts(asked, rows)
        if self.asked == 1:
            self.strike(signal.SIGKILL, most=1)
        return parts

    def settled(self, asked: Asked) -> Asked:
        settled = super().settled(asked)
        if not self.stopped:
            self.stopped = True
            self.strike(signal.SIGSTOP, most=1)
        return settled

    def strike(self, number: int, most: int) -> None:
        pids = ray.get(self.fleet.__ray_call__.remote(lambda fleet: [about["pid"] for about in fleet._about if about]))
        for pid in pids[:most]:
            os.kill(pid, number)


def row(paths: RunPaths) -> dict[str, float]:
    """Of the one step."""
    table = pq.read_table(paths.target("blade") / "metrics.parquet")
    timings = [name for name in table.column_names if name.startswith("seconds/") or name.endswith("_per_second")]
    (kept,) = table.drop_columns([*timings, "logprob_gap", "rollout_gap"]).to_pylist()
    return dict(kept)


def test_a_run_that_loses_engines_ends_as_if_it_had_not(
    trained: dict[int, RunPaths], tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(
        tiny_config,
        tmp_path / "run",
        train={"steps": 1, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "max_failures": 0},
        learner={"clip_grad": 0.0},
        rollout={"engines": 2, "push_timeout_s": 10.0},
    )
    paths = RunPaths(config.run.dir)
    paths.prior.write_bytes(trained[1].prior.read_bytes())
    start = RunningPool.__enter__

    def started(self: RunningPool) -> Any:
        pool = start(self)
        return Broken(pool.fleet, pool.settings)

    monkeypatch.setattr(RunningPool, "__enter__", started)
    align_stage(open_run(config), Console(quiet=True))

    assert row(paths) == pytest.approx(row(trained[1]), rel=1e-4, abs=1e-6)
    ours, untouched, before = (
        torch.cat([weights.flatten() for weights in load_file(folder / "model.safetensors").values()])
        for folder in (paths.policy("blade"), trained[1].policy("blade"), paths.reference)
    )
    assert (ours - untouched).norm() < 1e-2 * (untouched - before).norm()

    incidents = [path.read_text() for path in sorted((config.run.dir / "incidents").iterdir())]
    first = [text.splitlines()[0] for text in incidents]
    assert sum("the pipeline waited for its lists since" in line and "died" in line for line in first) >= 2
    stopped = [text for text in incidents if "rollout.push_timeout_s = 10 s" in text]
    assert stopped
    assert all("the learners waited for its push since" in text for text in stopped)
    assert all("MainThread" in text or NO_STACKS in text for text in stopped)
