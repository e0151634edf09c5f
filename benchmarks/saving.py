"""What checkpoints cost the loop: how long it waits for them, against how long it takes to write them."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from rich.console import Console

from benchmarks.generated_run import make_config, prepare
from benchmarks.report import show, write_result
from benchmarks.workload import PRESETS, Workload
from blade_dist.settings import TrainSettings
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.checkpoints import LEARNERS, NUMBERS
from blade_dist.store.run import RunPaths
from blade_dist.store.whole import MANIFEST

GOAL = 0.03
"""Of the loop's time, at most."""


def main(
    checkpoints: Annotated[int, typer.Option(min=2, help="How many are saved; the last one's wait is left out.")] = 3,
    every: Annotated[int, typer.Option(min=2, help="Steps between them.")] = TrainSettings().checkpoint_every,
    hidden: Annotated[int | None, typer.Option(help="Model: width; a multiple of 32 per head.")] = None,
    layers: Annotated[int | None, typer.Option(help="Model: layers.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Runs the real trainer on a generated catalog, with checkpoints as often as by default.

    Examples:

      python -m benchmarks.saving --json saving.json

      python -m benchmarks.saving --hidden 512 --layers 8 --every 4
    """
    work = PRESETS["recsys-cpu"]
    work = replace(work, hidden=hidden or work.hidden, layers=layers or work.layers)
    results = measure(work, checkpoints, every)
    show("saving", results, {"share": GOAL})
    write_result(json, "saving", asdict(work) | {"checkpoints": checkpoints, "every": every}, results)


def measure(work: Workload, checkpoints: int, every: int) -> dict[str, Any]:
    """A real run, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as name:
        config = make_config(work, Path(name) / "run", checkpoints * every)
        kept = {"checkpoint_every": every, "keep_checkpoints": checkpoints}
        config = config.model_copy(update={"train": config.train.model_copy(update=kept)})
        parameters = prepare(config, work)
        align_stage(open_run(config), Console())
        folder = RunPaths(config.run.dir).target(config.target)
        rows = pq.read_table(folder / "metrics.parquet").to_pylist()
        whole = [manifest.parent for manifest in sorted((folder / LEARNERS).glob(f"checkpoint_*/{MANIFEST}"))]
        written = [_modified(each / MANIFEST) - _modified(each / NUMBERS) for each in whole]
        size = sum(file.stat().st_size for file in whole[-1].rglob("*") if file.is_file())
    return numbers(rows, every) | {
        "write_seconds": statistics.median(written),
        "checkpoint_mb": size / 1e6,
        "parameters": parameters,
    }


def numbers(rows: list[dict[str, float]], every: int) -> dict[str, float]:
    """From the step log.

    The first steps, up to the first checkpoint, compile and warm up, and are left out; so is the wait at the end, which
    no row has.
    """
    rows = rows[every:]
    waited, steps = (sum(row[f"seconds/{name}"] for row in rows) for name in ("save", "step"))
    # the row after a checkpoint's is the step that was taken while it was written
    beside = [row["seconds/step"] for number, row in enumerate(rows) if number % every == 0]
    alone = [row["seconds/step"] for number, row in enumerate(rows) if number % every >= every // 2]
    return {
        "share": waited / (waited + steps),
        "wait_seconds": statistics.median(row["seconds/save"] for row in rows[::every]),
        "step_seconds": statistics.median(alone),
        "step_seconds_beside": statistics.median(beside),
    }


def _modified(path: Path) -> float:
    return path.stat().st_mtime


if __name__ == "__main__":
    typer.run(main)
