"""A generated log of a million rows, from its file to a fine-tuned model: how long data and fine-tuning take.

The settings are those of the MovieLens preset, with fewer passes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console

from benchmarks.report import show, write_result
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.settings.load import load_config
from blade_dist.stages.data import data_stage
from blade_dist.stages.sft import sft_stage
from blade_dist.store.run import RunPaths

PRESET = Path(__file__).parents[1] / "launch" / "configs" / "movielens-small.yaml"
LOG = "{users: 6000, items: 3700, groups: 18, interactions: 170}"
"""Of about the size of MovieLens 1M."""
EPOCHS = 8
"""Fewer than the preset's, which is for a log with a tenth of the rows: a pass has ten times as many steps here."""
GOAL_S = 900.0


def main(
    changes: Annotated[list[str] | None, typer.Option("--set", help="A setting, for example sft.epochs=5.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Runs data and sft, and prints their seconds.

    Examples:

      python -m benchmarks.large_log --json large_log.json
    """
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        log = ["data.source=synthetic", f"data.synthetic={LOG}", f"run.dir={name}/run", f"sft.epochs={EPOCHS}"]
        config = load_config(PRESET, [*log, "tracking.tensorboard=false", *(changes or [])])
        with ray_runtime(config):
            began = time.perf_counter()
            data_stage(config, console)
            prepared = time.perf_counter()
            sft_stage(config, console)
            tuned = time.perf_counter()
        paths = RunPaths(config.run.dir)
        rows = pq.read_metadata(paths.data / "synthetic" / "log.parquet").num_rows
        validations = pq.read_table(paths.sft / "metrics.parquet").to_pylist()
    best = max(validations, key=lambda row: row["validation_ndcg"])
    results: dict[str, Any] = {
        "rows": rows,
        "data_s": prepared - began,
        "sft_s": tuned - prepared,
        "seconds": tuned - began,
        "goal_s": GOAL_S,
        "epochs": validations[-1]["epoch"],
        "best_epoch": best["epoch"],
        "validation_ndcg": best["validation_ndcg"],
    }
    show("a large log", results, {"seconds": GOAL_S})
    write_result(
        json, "large_log", {"preset": PRESET.name, "log": LOG, "epochs": EPOCHS, "changes": changes or []}, results
    )


if __name__ == "__main__":
    typer.run(main)
