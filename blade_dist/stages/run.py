"""``blade-dist run``: every stage in turn, timed, with the memory that it took; the summary at the end."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import pyarrow.parquet as pq
from rich.console import Console

from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.bundle import load_data
from blade_dist.settings import Config
from blade_dist.stages.align import align_stage
from blade_dist.stages.data import data_stage
from blade_dist.stages.evaluate import evaluate_stage
from blade_dist.stages.export import export_stage
from blade_dist.stages.opened import check_lists, check_metrics, open_run
from blade_dist.stages.sft import sft_stage
from blade_dist.store.files import read_json, write_json
from blade_dist.store.run import RunPaths
from blade_dist.tracking.say import say

SAMPLE_S = 1.0
"""Time between two looks at the memory."""


def run_stages(config: Config, console: Console) -> None:
    """data, sft, train (for the target and those of ``run.compare``), evaluate, export; writes ``summary.json``."""
    paths = RunPaths(config.run.dir)
    targets = [*(name for name in config.run.compare if name != config.target), config.target]
    seconds = dict((read_json(paths.root / "seconds.json") or {}).items())
    with memory() as peak, ray_runtime(config):

        def timed(name: str, stage: Any, *arguments: Any) -> Any:
            console.rule(name)
            began = time.perf_counter()
            result = stage(*arguments)
            # a stage that was skipped keeps the time that it took when it ran
            seconds[name] = max(seconds.get(name, 0.0), time.perf_counter() - began)
            write_json(paths.root / "seconds.json", seconds)
            return result

        timed("data", data_stage, config, console)
        data = load_data(config.run.dir)
        check_metrics(config, data)
        check_lists(config, data)
        timed("sft", sft_stage, config, console)
        run = open_run(config)
        for target in targets:
            timed(f"train {target}", align_stage, run.under(config.model_copy(update={"target": target})), console)
        others = [paths.reference, *(paths.policy(target) for target in targets[:-1])]
        evaluated = timed("evaluate", evaluate_stage, run, paths.policy(config.target), others, console)
        timed("export", export_stage, config, paths.policy(config.target), paths.root / "export", console)
    shutil.copyfile(paths.evaluation / "per_user.parquet", paths.root / "per_user.parquet")
    summary = {**evaluated, **_training(paths, targets), "seconds": seconds, "peak_rss_bytes": peak[0]}
    write_json(paths.root / "summary.json", summary)
    say(console, f"summary: {paths.root / 'summary.json'}; model: {paths.root / 'export'}")


def _training(paths: RunPaths, targets: Sequence[str]) -> dict[str, Any]:
    rows = {target: pq.read_table(paths.target(target) / "metrics.parquet") for target in targets}
    return {
        "logprob_gap_max": max(max(table["logprob_gap"].to_pylist()) for table in rows.values()),
        "informative_groups": {target: table["informative_groups"].to_pylist() for target, table in rows.items()},
    }


@contextmanager
def memory() -> Iterator[list[int]]:
    """The most memory (bytes, proportional set size) that this process and all below it held during the block."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_S):
            peak[0] = max(peak[0], _held())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def _held() -> int:
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has just ended
    return total
