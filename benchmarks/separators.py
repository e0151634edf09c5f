"""A whole step of the alignment with one token per item: lists as they are written, and as version 0.1 wrote them.

The settings are those of the MovieLens preset, the log is a generated one of its size. Version 0.1 wrote a separator
after every item and an end, by one engine on all cores. Everything else is the same code, which follows from the codec.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console

from benchmarks.report import show, write_result
from blade_dist.catalog.legality import write_trie
from blade_dist.catalog.tokenizer import SEPARATOR, special_token
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.bundle import load_data
from blade_dist.learners.policy import build_model
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.align import align_stage
from blade_dist.stages.data import data_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths

PRESET = Path(__file__).parents[1] / "launch" / "configs" / "movielens-small.yaml"
LOG = "{users: 610, items: 3650, groups: 19, interactions: 150}"
"""Of about the size of MovieLens latest-small."""


def main(
    steps: Annotated[int, typer.Option(help="Measured steps; medians count.")] = 30,
    warmup: Annotated[int, typer.Option(help="Steps before them.")] = 10,
    repeats: Annotated[int, typer.Option(help="Runs of each kind; the two kinds take turns.")] = 2,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Runs the alignment both ways and compares lists per second.

    Examples:

      python -m benchmarks.separators --json separators.json
    """
    console = Console()
    runs: dict[str, list[dict[str, float]]] = {"plain": [], "separated": []}
    for _ in range(repeats):
        for kind, of in runs.items():
            of.append(_measure(kind == "separated", steps, warmup, console))
    medians = {kind: {name: statistics.median(run[name] for run in of) for name in of[0]} for kind, of in runs.items()}
    ratio = medians["plain"]["lists_per_second"] / medians["separated"]["lists_per_second"]
    results: dict[str, Any] = {**medians, "ratio": ratio, "goal": 1.6, "runs": runs}
    show("a whole step, one token per item", {**medians, "ratio": ratio}, {"ratio": 1.6})
    write_result(json, "separators", {"preset": PRESET.name, "log": LOG, "steps": steps, "repeats": repeats}, results)


def _measure(separated: bool, steps: int, warmup: int, console: Console) -> dict[str, float]:
    """Medians over the steps of one run, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as name:
        changes = [
            *("data.source=synthetic", f"data.synthetic={LOG}", f"run.dir={name}/run", "run.compare=[]"),
            *(f"train.steps={warmup + steps}", f"train.checkpoint_every={warmup + steps}"),
            *("train.prompts=512", "train.validation_prompts=0", "prior.size=4", "tracking.tensorboard=false"),
        ]
        one_engine = ["rollout.engines=1", "rollout.cpus_per_engine=2"]
        config = load_config(PRESET, [*changes, *(one_engine if separated else [])])
        with ray_runtime(config):
            _prepare(config, separated)
            align_stage(open_run(config), console)
        paths = RunPaths(config.run.dir)
        rows = pq.read_table(paths.target(config.target) / "metrics.parquet").to_pylist()[warmup:]
    parts = ("lists_per_second", "seconds/generate", "seconds/learn", "seconds/push")
    return {part: statistics.median(row[part] for row in rows) for part in parts}


def _prepare(config: Config, separated: bool) -> None:
    """The data, with the codec of the one kind or the other, and a reference with random weights."""
    paths = RunPaths(config.run.dir)
    data_stage(config, Console(quiet=True))
    codec = load_data(config.run.dir).codec
    if separated:
        codec = replace(codec, separator=special_token(codec.tokenizer, SEPARATOR), source=codec.tokenizer)
        codec.save(paths.codec)
        write_trie(codec, paths.trie)
    torch.manual_seed(0)
    model = build_model(config.model, codec.vocabulary, codec.pad, codec.end)
    save_policy(
        paths.reference,
        model,
        model.state_dict(),
        codec.tokenizer,
        codec=codec.fingerprint(),
        policy="sft",
        step=0,
    )


if __name__ == "__main__":
    typer.run(main)
