"""The fine-tuned model beside what needs no language model, on a log with the protocol of published tables.

For each seed: data, fine-tuning, and the evaluation of every held-out user; nothing is aligned. Numbers are pooled over
seeds, with intervals over users.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import typer
from rich.console import Console

from benchmarks.quality.plain_count import NAME as PLAIN
from benchmarks.quality.plain_count import plain_lists
from benchmarks.quality.pooled import columns
from benchmarks.quality.rows import rows_of, write_table
from benchmarks.quality.sasrec import TRIALS, chosen_trial, write_rows
from benchmarks.report import write_result
from benchmarks.tables.ranking import MAIN, ranking
from benchmarks.tables.text import show
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.evaluation.bootstrap import Resamples
from blade_dist.evaluation.decoding import LIST, RANK
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.data import data_stage
from blade_dist.stages.evaluate import evaluate_stage
from blade_dist.stages.opened import open_run
from blade_dist.stages.sft import sft_stage
from blade_dist.store.files import read_json, write_json
from blade_dist.store.run import RunPaths

RESAMPLES = 10_000
PER_USER = "per_user.parquet"
SASREC_ROWS = "sasrec.parquet"
PLAIN_ROWS = "plain_count.parquet"
Result = dict[str, Any]


def main(
    preset: Annotated[Path, typer.Argument(help="Settings, for example launch/configs/amazon-beauty.yaml.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="A setting, for example data.path=DIR.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the fine-tuning.")] = 3,
    sasrec: Annotated[bool, typer.Option(help="Also train SASRec, four trials on the first seed.")] = False,
    folder: Annotated[Path, typer.Option(help="Where runs are kept; what is done there is not done again.")] = Path(
        "runs/ranking"
    ),
    json: Annotated[Path | None, typer.Option(help="The result file. Default: ranking.json in the folder.")] = None,
) -> None:
    """Runs what is missing, prints the table and writes its numbers.

    Examples:

      python -m benchmarks.quality.ranking launch/configs/movielens-small.yaml --set data.path=ml-latest-small

      python -m benchmarks.quality.ranking launch/configs/amazon-beauty.yaml --set data.path=log.parquet --set
      data.items=items.parquet --sasrec
    """
    console, out = Console(), json or folder / "ranking.json"
    given = ["evaluate.bootstrap=1", "tracking.tensorboard=false", *(changes or [])]
    configs = [
        load_config(preset, [*given, f"run.seed={seed}", f"run.dir={folder / f'seed{seed}'}"]) for seed in range(seeds)
    ]
    costs = [_seed(config, console) for config in configs]
    for config in configs:
        _plain_count(config)
    if sasrec:
        _sasrec(configs)
    results = summary(configs) | {"by_seed": costs}
    settings = configs[0].model_dump(mode="json", include={"data", "lists", "codec", "model", "sft", "evaluate"})
    for name in ("path", "items", "splits"):  # where they lie is nobody's business
        settings["data"][name] = settings["data"][name] and Path(settings["data"][name]).name
    write_result(out, "ranking", {"preset": preset.name, "seeds": seeds} | settings, results)
    show({preset.stem: ranking(results)}, console)


def _seed(config: Config, console: Console) -> Result:
    """One seed's run, and what it cost."""
    paths = RunPaths(config.run.dir)
    kept = paths.root / "cost.json"
    if (known := read_json(kept)) is not None:
        return known
    with ray_runtime(config):
        began = time.perf_counter()
        data_stage(config, console)
        prepared = time.perf_counter()
        sft_stage(config, console)
        tuned = time.perf_counter()
        written = evaluate_stage(open_run(config), paths.reference, [], console)
    steps = pq.read_table(paths.sft / "metrics.parquet").to_pandas()
    best = steps["validation_ndcg"].idxmax()
    cost = {
        "seed": config.run.seed,
        "data_s": prepared - began,
        "sft_s": tuned - prepared,
        "epochs": float(steps["epoch"].iloc[-1]),
        "best_epoch": float(steps["epoch"][best]),
        "validation_ndcg": float(steps["validation_ndcg"][best]),
        "decoding": {way: by["sft"] for way, by in written["cost"].items()},
    }
    write_json(kept, cost)
    return cost


def _plain_count(config: Config) -> None:
    """The lists of the count that a published row has; it ranks, and its list is the same by any decode."""
    run = open_run(config)
    data = run.data
    test = data.test.rows(np.arange(len(data.test)))
    sequences = data.sequences.rows(np.arange(len(data.sequences)))
    items = plain_lists(data.catalog, sequences, test, config.lists.k, config.lists.exclude_history)
    write_table(rows_of(run, test, {(PLAIN, RANK): items}), run.paths.evaluation / PLAIN_ROWS)


def _sasrec(configs: list[Config]) -> None:
    """Its lists for each seed, after as many passes as the policy has; rate and dropout are chosen on the first one."""
    trials = TRIALS
    for config in configs:
        path = RunPaths(config.run.dir).evaluation / SASREC_ROWS
        if not path.is_file():
            write_rows(config, path, trials, config.sft_epochs)
        trials = (chosen_trial(path),)


def summary(configs: list[Config]) -> Result:
    """Users, and the means of every method; what the fine-tuned model as a ranker has more than each of the others."""
    rows = pd.concat([_rows(config) for config in configs], ignore_index=True)
    rows = rows.sort_values(["seed", "prompt"], kind="stable")
    parts = {name: part.reset_index(drop=True) for name, part in rows.groupby("method", sort=False)}
    ranker = parts[MAIN]
    resamples = Resamples(ranker["user"].to_numpy(), RESAMPLES, seed=0)
    metrics = [name for name in columns(ranker) if name not in ("method", "reward")]

    def shown(values: dict[str, pd.DataFrame]) -> Result:
        flat = {f"{method}\t{metric}": of[metric].to_numpy() for method, of in values.items() for metric in metrics}
        found: Result = {}
        for key, interval in resamples.each_mean(flat).items():
            method, metric = key.split("\t")
            found.setdefault(method, {})[metric] = interval.as_dict()
        return found

    return {
        "users": int(ranker["user"].nunique()),
        "prompts": int(ranker["prompt"].nunique()),
        "methods": shown(parts),
        "ranker_minus": shown({name: ranker[metrics] - part[metrics] for name, part in parts.items() if name != MAIN}),
    }


def _rows(config: Config) -> pd.DataFrame:
    """Every method's rows of one seed: the policy as list and as ranker; the others rank, whatever the decode."""
    folder = RunPaths(config.run.dir).evaluation
    files = [folder / PER_USER, *(file for name in (PLAIN_ROWS, SASREC_ROWS) if (file := folder / name).is_file())]
    rows = pd.concat([pq.read_table(file).to_pandas() for file in files], ignore_index=True)
    rows = rows[(rows["decode"] == RANK) | ((rows["decode"] == LIST) & (rows["policy"] == "sft"))]
    method = rows["policy"].where(rows["policy"] != "sft", "sft " + rows["decode"])
    return rows.assign(method=method, seed=config.run.seed)


if __name__ == "__main__":
    typer.run(main)
