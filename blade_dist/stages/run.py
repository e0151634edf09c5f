"""``blade-dist run``: every stage in turn, each timed; a summary at the end."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.bundle import load_data
from blade_dist.settings import Config
from blade_dist.stages.align import align_stage
from blade_dist.stages.cost import StageSeconds, peak_memory
from blade_dist.stages.data import data_stage
from blade_dist.stages.evaluate import evaluate_stage
from blade_dist.stages.export import export_stage
from blade_dist.stages.opened import check_lists, check_metrics, open_run
from blade_dist.stages.sft import sft_stage
from blade_dist.store.files import write_json
from blade_dist.store.run import RunPaths
from blade_dist.tracking.say import say

SHOWN = 3
"""Items of the history in the example at the end."""


def run_stages(config: Config, console: Console) -> None:
    """data, sft, train (for the target and those of ``run.compare``), evaluate, export; writes ``summary.json``.

    Raises:
        UserError: what a stage refuses; a reward or a rule that does not fit the data, before the model is fine-tuned.
    """
    paths = RunPaths(config.run.dir)
    targets = [*(name for name in config.run.compare if name != config.target), config.target]
    seconds = StageSeconds(paths.root / "seconds.json")

    def timed(name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        console.rule(name)
        with seconds.sitting(name):
            return stage(*arguments)

    with peak_memory() as peak, ray_runtime(config):
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
    spent = {"seconds": seconds.finished, "peak_rss_bytes": peak[0]}
    write_json(paths.root / "summary.json", {**evaluated, **_training(paths, targets), **spent})
    say(console, f"summary: {paths.root / 'summary.json'}; model: {paths.root / 'export'}")
    shown = data.catalog.item_ids[data.test.rows(np.arange(1)).history[0][-SHOWN:]]
    command = ["blade-dist", "recommend", str(paths.root / "export"), "--history", ",".join(shown)]
    say(console, f"a list for a history: {shlex.join(command)}")


def _training(paths: RunPaths, targets: Sequence[str]) -> dict[str, Any]:
    rows = {target: pq.read_table(paths.target(target) / "metrics.parquet") for target in targets}
    return {
        "logprob_gap_max": max(max(table["logprob_gap"].to_pylist()) for table in rows.values()),
        "informative_groups": {target: table["informative_groups"].to_pylist() for target, table in rows.items()},
    }
