"""Data, reference and prior that all jobs start from, in one Ray: ``python -m tests.multi_node.base CONFIG RUN``."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from blade_dist.cluster.runtime import ray_runtime
from blade_dist.settings.load import load_config
from blade_dist.stages.data import data_stage
from blade_dist.stages.opened import open_run
from blade_dist.stages.prior import prior_stage
from blade_dist.stages.sft import sft_stage

if __name__ == "__main__":
    settings, run = sys.argv[1:]
    config, console = load_config(Path(settings), [f"run.dir={run}"]), Console(quiet=True)
    with ray_runtime(config):
        data_stage(config, console)
        sft_stage(config, console)
        prior_stage(open_run(config), console)
