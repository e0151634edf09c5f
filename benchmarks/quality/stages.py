"""Stages of `blade-dist` inside a benchmark's own process: one Ray for all of them, imports paid once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from blade_dist.cluster.runtime import ray_runtime
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.stages.align import align_stage
from blade_dist.stages.data import data_stage
from blade_dist.stages.evaluate import evaluate_stage
from blade_dist.stages.opened import OpenedRun, open_run
from blade_dist.stages.prior import prior_stage
from blade_dist.stages.sft import sft_stage

WIDTH = 160
"""Characters of a log's line."""


@contextmanager
def one_ray(config: Config, variables: Mapping[str, str]) -> Iterator[None]:
    """Ray whose processes have ``variables`` in their environment.

    They import rewards of this package by name: Ray puts the driver's working directory, the repository's root, on
    their path.
    """
    os.environ.update({**variables, "HF_HUB_OFFLINE": "1"})  # before Ray starts: its processes inherit it
    with ray_runtime(config):
        yield


def stage(name: str, config: Config, *checkpoints: Path) -> None:
    """data, sft, prior, train, or evaluate (the first of ``checkpoints`` against the others), as the command would.

    What it says is written to ``<name>.log`` in the run's folder.

    Raises:
        SystemExit: the stage refuses its input; with what it says.
    """
    config.run.dir.mkdir(parents=True, exist_ok=True)
    with (config.run.dir / f"{name}.log").open("a") as log:
        console = Console(file=log, width=WIDTH)
        try:
            if name == "evaluate":
                evaluate_stage(open_run(config), checkpoints[0], list(checkpoints[1:]), console)
            elif name in OPENED:
                OPENED[name](open_run(config), console)
            else:
                PREPARING[name](config, console)
        except UserError as error:
            raise SystemExit(f"{name}, {config.run.dir}: {error}") from error


def link(run: Path, part: str, source: Path) -> None:
    """Links a part of another run into a run folder, unless it is there or is its own."""
    if source != run and not (run / part).exists():
        run.mkdir(parents=True, exist_ok=True)
        (run / part).symlink_to(source / part)


PREPARING = {"data": data_stage, "sft": sft_stage}

OPENED: dict[str, Callable[[OpenedRun, Console], object]] = {"prior": prior_stage, "train": align_stage}
"""Stages of a run whose data and reference are there."""
