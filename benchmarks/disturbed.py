"""A small training in the real program that may be killed, and its comparison with one that nobody touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.report import show, write_result
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages.data import data_stage
from blade_dist.stages.sft import sft_stage
from blade_dist.store.checkpoints import LEARNERS, saved_step
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths

GROUP = 8
"""Lists of a prompt in a step."""
PATIENCE_S = 600.0
"""How long a program may take until its next checkpoint, or its end."""
TIMES = ("seconds/", "lists_per_second")
"""Columns that two equal trainings differ in."""

Seed = Annotated[int, typer.Option(help="Of what falls when.")]
Folder = Annotated[Path | None, typer.Option(help="Where the runs are kept. Default: nowhere.")]
Json = Annotated[Path | None, typer.Option(help="Where the result is written.")]


@dataclass(frozen=True)
class Settings:
    """Of a training, as a file."""

    file: Path
    run: RunPaths
    target: str

    @property
    def learners(self) -> Path:
        """Folder of the checkpoints."""
        return self.run.target(self.target) / LEARNERS

    def checkpoints(self) -> list[Path]:
        """Whole ones, by step."""
        return sorted(path.parent for path in self.learners.glob("checkpoint_*/manifest.json"))


class Program:
    """``blade-dist train`` in a session of its own, with a Ray of its own."""

    def __init__(self, settings: Settings, log: Path, variables: dict[str, str] | None = None) -> None:
        """Starts it; what it says is added to ``log``.

        ``variables``: of the environment, beside those of this process.
        """
        self._settings, self._log = settings, log
        plain = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_ID")}
        environment = plain | (variables or {})
        command = [sys.executable, "-m", "blade_dist", "train", str(settings.file)]
        with log.open("ab") as said:
            self._process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)

    def wait(self, condition: Callable[[], object]) -> None:
        """Until the condition holds.

        Raises:
            RuntimeError: it ended before, or it saves nothing more.
        """
        seen, until = -1, 0.0
        while not condition():
            if (step := newest(self._settings)) > seen:
                seen, until = step, time.monotonic() + PATIENCE_S
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{' '.join(map(str, self._process.args))}: {self._log.read_text()[-3000:]}")
            time.sleep(0.05)

    @property
    def done(self) -> bool:
        """Whether it has ended well."""
        return self._process.poll() == 0

    def below(self) -> list[psutil.Process]:
        """All processes that it has started."""
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL to all of it at once, if it is still there."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Waits until it ends by itself.

        Raises:
            RuntimeError: it failed, or it saves nothing more; nothing of it is left then.
        """
        try:
            self.wait(lambda: self.done)
        finally:
            self.kill()


def prepared(folder: Path, steps: int, every: int, **changes: dict[str, Any]) -> tuple[Settings, Settings]:
    """Two folders with the same data, reference and settings: one to disturb, and one that is trained here to its end.

    Args:
        folder: of both.
        steps: of the training.
        every: steps between checkpoints.
        changes: further settings, by section.
    """
    train = {"steps": steps, "checkpoint_every": every}
    whole = _settings(folder, "whole", train, changes)
    config = load_config(whole.file, [])
    with ray_runtime(config):
        data_stage(config, Console(quiet=True))
        sft_stage(config, Console(quiet=True))
    Program(whole, folder / "whole.log").end()
    disturbed = _settings(folder, "disturbed", train, changes)
    for part in ("data", "sft", "prior.arrow"):
        source, copy = whole.run.root / part, disturbed.run.root / part
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    return disturbed, whole


def _settings(folder: Path, name: str, train: dict[str, Any], changes: dict[str, dict[str, Any]]) -> Settings:
    build = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_size": 128, "context": 64}
    tree: dict[str, Any] = {
        "run": {"dir": str(folder / name)},
        "data": {"source": "synthetic", "synthetic": {"users": 300, "items": 60}, "max_history": 8},
        "lists": {"k": 5},
        "model": {"build": build},
        "sft": {"epochs": 2},
        "reward": {"weights": {"ndcg@5": 1.0, "ild@5": 0.3}},
        "posterior": {"carry": 0.5},
        "prior": {"size": 8},
        "rollout": {"group_size": GROUP, "cpus_per_engine": 1},
        "train": {"prompts": 32, "prompts_per_step": 16, **train},
        "tracking": {"tensorboard": False},
    }
    for section, values in changes.items():
        tree[section] = tree.get(section, {}) | values
    config = Config.model_validate(tree)
    write_text(folder / f"{name}.yaml", dump_config(config))
    return Settings(folder / f"{name}.yaml", RunPaths(config.run.dir), config.target)


def record(
    benchmark: str,
    run: Callable[[Path, np.random.Generator], dict[str, Any]],
    options: Mapping[str, int],
    goals: Mapping[str, Any],
    folder: Path | None,
    json: Path | None,
) -> None:
    """Runs it in a folder, prints its numbers and writes its result.

    Args:
        benchmark: its name.
        run: from the folder and random numbers to results, of which lists are only written.
        options: as they were given; has a ``seed``.
        goals: by the names of numbers.
        folder: None: a temporary one.
        json: file of the result; None: nowhere.
    """
    with tempfile.TemporaryDirectory() as name:
        results = run(folder or Path(name), np.random.default_rng(options["seed"]))
    show(benchmark, {name: value for name, value in results.items() if not isinstance(value, list)}, goals)
    write_result(json, benchmark, dict(options), results)


def newest(settings: Settings) -> int:
    """Steps that the newest checkpoint has done."""
    return saved_step(settings.learners)


def compared(settings: Settings, whole: Settings) -> dict[str, Any]:
    """Whether rows and weights are the same to the last bit; how many rows are lost or doubled."""
    rows, untouched = _rows(settings), _rows(whole)
    steps = [row["step"] for row in rows]
    weights, plain = (load_file(of.run.policy(of.target) / "model.safetensors") for of in (settings, whole))
    same_rows = rows == untouched
    same_weights = all(torch.equal(weights[name], plain[name]) for name in plain)
    reference = load_file(whole.run.reference / "model.safetensors")
    ours, theirs, start = (torch.cat([of[name].flatten() for name in plain]) for of in (weights, plain, reference))
    return {
        "identical": same_rows and same_weights,
        "same_rows": same_rows,
        "same_weights": same_weights,
        # distance of the two, over the way that the undisturbed one has gone
        "weight_difference": float((ours - theirs).norm() / (theirs - start).norm()),
        "lost_rows": len({row["step"] for row in untouched} - set(steps)),
        "doubled_rows": len(steps) - len(set(steps)),
    }


def _rows(settings: Settings) -> list[dict[str, Any]]:
    rows = pq.read_table(settings.run.target(settings.target) / "metrics.parquet").to_pylist()
    return [{name: row[name] for name in row if not name.startswith(TIMES)} for row in rows]
