"""``blade-dist run``: every stage in turn, each timed; a summary at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.bundle import load_data
from blade_dist.settings import Config
from blade_dist.stages import opening
from blade_dist.stages.align import align_stage
from blade_dist.stages.cost import StageSeconds, peak_memory
from blade_dist.stages.data import data_stage
from blade_dist.stages.evaluate import evaluate_stage
from blade_dist.stages.export import export_stage
from blade_dist.stages.one_list import one_list
from blade_dist.stages.opened import check_lists, check_metrics, open_run
from blade_dist.stages.sft import sft_stage
from blade_dist.store.files import write_json
from blade_dist.store.run import RunPaths
from blade_dist.tracking.bar import RAY, waiting
from blade_dist.tracking.say import last_lines, say, say_command


def run_stages(config: Config, console: Console) -> None:
    """data, sft, train (for the target and those of ``run.compare``), evaluate, export; writes ``summary.json``.

    Raises:
        UserError: what a stage refuses; a reward or a rule that does not fit the data, before the model is fine-tuned.
    """
    paths = RunPaths(config.run.dir)
    targets = [*(name for name in config.run.compare if name != config.target), config.target]
    seconds = StageSeconds(paths.root / "seconds.json")

    def timed(name: str, line: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        console.rule(name)
        say(console, f"{name.partition(' ')[0]}: {line}")
        with seconds.sitting(name):
            return stage(*arguments)

    with peak_memory() as peak, ray_runtime(config, waiting(console, RAY)):
        timed("data", opening.data_line(config), data_stage, config, console)
        data = load_data(config.run.dir)
        check_metrics(config, data)
        check_lists(config, data)
        timed("sft", opening.sft_line(config), sft_stage, config, console)
        run = open_run(config)
        for target in targets:
            of_target = config.model_copy(update={"target": target})
            timed(f"train {target}", opening.train_line(of_target), align_stage, run.under(of_target), console)
        best, others = paths.policy(config.target), [paths.reference, *(paths.policy(name) for name in targets[:-1])]
        line = opening.evaluate_line(config, [best, *others])
        evaluated = timed("evaluate", line, evaluate_stage, run, best, others, console)
        out = paths.root / "export"
        history = timed("export", opening.export_line(best, out), export_stage, config, best, out, console)
    shutil.copyfile(paths.evaluation / "per_user.parquet", paths.root / "per_user.parquet")
    spent = {"seconds": seconds.finished, "peak_rss_bytes": peak[0]}
    write_json(paths.root / "summary.json", {**evaluated, **_training(paths, targets), **spent})
    end, command = last_lines(console), ["blade-dist", "recommend", str(out), "--history", ",".join(history)]
    say(end, f"summary: {paths.root / 'summary.json'}; model: {out}")
    for line in one_list(paths.root / "per_user.parquet", config.target, config.evaluate.decode, data):
        say(end, line)
    say_command(end, "lists over HTTP: ", ["blade-dist", "serve", str(out)])
    say_command(end, "a list for a history: ", command)


def _training(paths: RunPaths, targets: Sequence[str]) -> dict[str, Any]:
    rows = {target: pq.read_table(paths.target(target) / "metrics.parquet") for target in targets}
    return {
        "logprob_gap_max": max(max(table["logprob_gap"].to_pylist()) for table in rows.values()),
        "informative_groups": {target: table["informative_groups"].to_pylist() for target, table in rows.items()},
    }
