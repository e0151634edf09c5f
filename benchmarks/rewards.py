"""Lists per second on one core: NDCG + ILD + MGU of whole batches, beside RecTools' NDCG."""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # the goal is per core

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rectools import Columns
from rectools.metrics import NDCG

from benchmarks.report import show, write_result
from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists

GOAL = 200_000
GROUPS, HISTORY, TARGETS = 19, 20, 5


def make_lists(lists: int, group: int, k: int, items: int) -> Lists:
    """Random lists, ``group`` for each prompt, over a catalog whose items have one to three groups."""
    rng = np.random.default_rng(0)
    names = [str(item) for item in range(items)]
    groups = [[str(g) for g in rng.choice(GROUPS, rng.integers(1, 4), replace=False)] for _ in range(items)]
    catalog = Catalog.build(names, names, groups, rng.integers(1, 1000, items))
    prompts = -(-lists // group)
    owner = np.repeat(np.arange(prompts), group)[:lists]
    history, targets = (
        Ragged(distinct(rng, prompts, size, items).reshape(-1), np.arange(prompts + 1) * size)
        for size in (HISTORY, TARGETS)
    )
    chosen = distinct(rng, lists, k, items)
    return Lists(chosen, targets.take(owner), history.take(owner), catalog)


def distinct(rng: np.random.Generator, rows: int, size: int, items: int) -> np.ndarray:
    """int32 ``[rows, size]``: different items in each row, in random order."""
    ascending = np.sort(rng.integers(0, items - size + 1, (rows, size)), axis=1) + np.arange(size)
    return rng.permuted(ascending, axis=1).astype(np.int32)


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """Median of CPU seconds after one call that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds[1:])


def rectools_ndcg(lists: Lists, k: int) -> Callable[[], float]:
    """The mean NDCG of the same lists by RecTools, its tables made beforehand."""
    n = len(lists)
    users = np.repeat(np.arange(n), k)
    table = {Columns.User: users, Columns.Item: lists.items.reshape(-1), Columns.Rank: np.tile(np.arange(1, k + 1), n)}
    recommended = pd.DataFrame(table)
    held_out = pd.DataFrame({Columns.User: np.repeat(np.arange(n), TARGETS), Columns.Item: lists.targets.flat})
    metric = NDCG(k=k, divide_by_achievable=True)
    return lambda: metric.calc(recommended, held_out)


def main(
    lists: Annotated[int, typer.Option(help="Lists per call.")] = 16_384,
    group: Annotated[int, typer.Option(help="Lists per prompt.")] = 16,
    k: Annotated[int, typer.Option(help="Items per list.")] = 10,
    items: Annotated[int, typer.Option(help="Items of the catalog.")] = 10_000,
    repeats: Annotated[int, typer.Option(help="Measured calls; the median counts.")] = 7,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Measures the composite reward.

    Examples:

      python -m benchmarks.rewards --json rewards.json

      python -m benchmarks.rewards --k 20 --items 1000000
    """
    batch = make_lists(lists, group, k, items)
    weights = {f"ndcg@{k}": 1.0, f"ild@{k}": 0.3, f"mgu@{k}": -0.5}
    composite, accuracy = Composite(weights, batch.catalog, k), Composite({f"ndcg@{k}": 1.0}, batch.catalog, k)

    def fresh() -> Lists:  # its cached parts are part of the work
        return Lists(batch.items, batch.targets, batch.history, batch.catalog)

    peer = rectools_ndcg(batch, k)
    own = accuracy.score(fresh())[0].mean()
    results = {
        "lists_per_second": lists / seconds_of(lambda: composite.score(fresh()), repeats),
        "ndcg_lists_per_second": lists / seconds_of(lambda: accuracy.score(fresh()), repeats),
        "rectools_ndcg_lists_per_second": lists / seconds_of(peer, 3),
        "ndcg_difference": abs(float(own) - peer()),
        "goal": GOAL,
    }
    results["ratio_vs_rectools"] = results["ndcg_lists_per_second"] / results["rectools_ndcg_lists_per_second"]
    title = f"{' + '.join(weights)} per core, {lists} lists of {items} items"
    show(title, results, {"lists_per_second": f"{GOAL:,}"})
    write_result(json, "rewards", {"lists": lists, "group": group, "k": k, "items": items}, results)


if __name__ == "__main__":
    typer.run(main)
