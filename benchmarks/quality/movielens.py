"""The study of a real log: every target, Pareto front, sensitivity to settings, number of reference lists."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.quality.cells import FIRST, Cell
from benchmarks.quality.compare import ASKED, MAIN, Numbers, headline
from benchmarks.quality.pictures import draw_curves, draw_pareto, draw_search, draw_sensitivity
from benchmarks.quality.pooled import PooledRows
from benchmarks.quality.runner import BEST_OF, ROWS, Runner
from benchmarks.quality.sasrec import TRIALS as SASREC_TRIALS
from benchmarks.quality.sasrec import chosen_trial, write_rows
from benchmarks.quality.segments import make_segments, read_log
from blade_dist.data.bundle import load_data
from blade_dist.store.run import RunPaths

TARGETS: dict[str, dict[str, Any]] = {
    "static": {"target": "static"},
    "static, refreshed": {"target": "static", "prior.refresh_every": 20},
    "blade": {"target": "blade"},
    "bond": {"target": "bond"},
    "grpo": {"target": "grpo"},
    "best_of_n_sft": {"target": "best_of_n_sft"},
}
"""Rows of the main table, and the settings that make them."""
RATES = (5e-4, 1e-3, 2e-3)
"""Learning rates that every target is tried with, by validation reward on the first seed."""
PARETO_TARGETS = ("static", "blade", "grpo")
PARETO: dict[str, dict[str, float]] = {
    f"{metric}={weight:g}": {"ndcg@5": 1.0, metric: weight}
    for metric, weights in {"ild@5": (0.1, 0.3, 1.0), "mgu@5": (-1.0, -3.0)}.items()
    for weight in weights
}
"""Rewards of the Pareto front, besides the preset's own, by what is added to NDCG."""
SENSITIVITY: dict[str, tuple[Any, ...]] = {
    "posterior.tau": (0.05, 0.3, 0.6, 0.9, "auto"),
    "posterior.ties": ("le", "exact"),
    "prior.size": (8, 16, 32),
    "rollout.group_size": (4, 8, 16),
    "learner.bon_n": (4, 16, 64),
    "rollout.k": (5, 10),
}
"""BLADE with one setting changed at a time: tau, ties, M, G, N, items of a list in training."""
COMPARED = ("static", "blade")
REFERENCES = (4, 8, 16)
"""M that :data:`COMPARED` are compared with on every seed: static tells lists apart by the reference lists alone."""
Result = dict[str, Any]
SEARCH = f"sft best of {BEST_OF[-1]}"


class LogStudy:
    """What is measured on one log."""

    def __init__(self, runner: Runner, log: Path, rates: Sequence[float], out: Path) -> None:
        """
        Args:
            runner: of the cells.
            log: folder in MovieLens format.
            rates: learning rates that every target is tried with.
            out: the result file; the pictures lie beside it, the rows of all lists in the runner's folder.
        """
        self._runner, self._log, self._rates, self._out = runner, log, rates, out

    def main(self, targets: Sequence[str], seeds: int, family: Sequence[str]) -> Result:
        """Every target at its own learning rate on every seed, beside references, searches and baselines."""
        rates = {name: self._rate(name) for name in targets}
        cells = [Cell(seed, name, rates[name], TARGETS[name]) for seed in range(seeds) for name in targets]
        pooled = self._pooled(cells, range(seeds))
        pooled.save(self._runner.folder / "rows-main.parquet")
        numbers = Numbers(pooled)
        rows, tables = numbers.comparisons(targets, family), numbers.table()
        curves = {name: [self._runner.curves(cell) for cell in cells if cell.name == name] for name in targets}
        draw_curves(curves, self._beside("curves"))
        greedy = {name: tables["list"][name][MAIN] for name in ("sft", "blade") if name in tables["list"]}
        draw_search(searches(tables["sampled"]), greedy, self._beside("search"))
        return {
            "tables": tables,
            "comparisons": rows,
            "tests": sum("p" in row for row in rows),
            "held_out_ndcg5": headline(numbers, rows),
            "prompts": pooled.prompts(),
            "by_seed": pooled.by_seed(MAIN),
            "cells": [self._runner.summary(cell) for cell in cells],
            "trials": {name: self._trials(name) for name in targets},
        }

    def pareto(self, trades: Sequence[str]) -> Result:
        """Greedy numbers for several weights of diversity and of fairness, at the learning rates of the main part, and
        what was traded for what; ``trades``: keys of :data:`PARETO`."""
        rewards = [PARETO[name] for name in trades]
        metrics = [metric for metric in ASKED if any(metric in weights for weights in rewards)]
        rates = {target: self._rate(target) for target in PARETO_TARGETS}
        plain = [Cell(FIRST, target, rates[target], TARGETS[target]) for target in PARETO_TARGETS]
        cells = [*plain, *pareto_cells(FIRST, rates, rewards)]
        pooled = self._pooled(cells, [FIRST])
        for metric in metrics:
            run = self._runner.searched_by(FIRST, metric, math.copysign(1.0, ASKED[metric]))
            pooled.add(RunPaths(run).evaluation / ROWS, FIRST, {SEARCH: f"{SEARCH} by {metric}"})
        pooled.save(self._runner.folder / "rows-pareto.parquet")
        numbers = Numbers(pooled)
        tables = numbers.table()
        greedy, sampled = tables["list"], tables["sampled"]
        fronts = {
            metric: {
                "sft": [front_point(greedy["sft"], metric)],
                SEARCH: [front_point(sampled[f"{SEARCH} by {metric}"], metric)],
                **{
                    target: [
                        front_point(greedy[cell.name], metric)
                        for cell in cells
                        if cell.target == target and metric in cell.changes.get("reward.weights", {metric: 0.0})
                    ]
                    for target in PARETO_TARGETS
                },
            }
            for metric in metrics
        }
        draw_pareto(fronts, self._beside("pareto"))
        traded = [trade for weights in rewards for trade in _trades(numbers, weights)]
        return {"trades": traded, "fronts": fronts, "cells": [self._runner.summary(cell) for cell in cells]}

    def sensitivity(self) -> Result:
        """Greedy numbers of BLADE with one setting changed at a time, at its own learning rate."""
        plain = Cell(FIRST, "blade", self._rate("blade"), TARGETS["blade"])
        cells = sensitivity_cells(plain, self._runner.preset_value)
        every = {cell.name: cell for cell in [plain, *(cell for of in cells.values() for cell in of.values())]}
        pooled = self._pooled(list(every.values()), [FIRST])
        pooled.save(self._runner.folder / "rows-sensitivity.parquet")
        numbers = Numbers(pooled)
        summaries = {name: self._runner.summary(cell) for name, cell in every.items()}
        table = numbers.table()["list"]

        def of_value(cell: Cell) -> Result:
            read = {name: summaries[cell.name][name] for name in ("informative_groups", "validation")}
            other = numbers.minus(cell.name, plain.name, MAIN) if cell != plain else None
            return table[cell.name][MAIN] | {"minus_preset": other, **read}

        results = {name: {value: of_value(cell) for value, cell in of.items()} for name, of in cells.items()}
        draw_sensitivity(results, self._beside("sensitivity"))
        return {MAIN: results, "cells": list(summaries.values())}

    def references(self, seeds: int) -> Result:
        """Static and BLADE with fewer reference lists per prompt, on every seed, at their own learning rates."""
        rates = {target: self._rate(target) for target in COMPARED}
        plain = [Cell(seed, target, rates[target], TARGETS[target]) for seed in range(seeds) for target in COMPARED]
        cells = {m: [changed(cell, "prior.size", m, self._runner.preset_value) for cell in plain] for m in REFERENCES}
        every = [cell for of in cells.values() for cell in of]
        pooled = self._pooled(every, range(seeds))
        pooled.save(self._runner.folder / "rows-references.parquet")
        numbers, summaries = Numbers(pooled), [self._runner.summary(cell) for cell in every]
        rows = [
            {"lists": m, **pair_of({cell.target: cell.name for cell in of}, numbers, summaries)}
            for m, of in cells.items()
        ]
        return {"rows": rows, "cells": summaries}

    def _rate(self, target: str) -> float:
        return float(self._trials(target)[0]["lr"])

    def _trials(self, target: str) -> list[Result]:
        """The first seed's, the best one first."""
        return self._runner.tuned(FIRST, target, TARGETS[target], self._rates, by="validation")

    def _pooled(self, cells: Sequence[Cell], seeds: Iterable[int]) -> PooledRows:
        """Rows of the seeds' references with all that is compared with them, and of the cells."""
        data = load_data(self._runner.data())
        pooled = PooledRows(data, make_segments(data, read_log(self._log, data.catalog)))
        for seed in seeds:
            for run in (self._runner.searched(seed), self._next_item(seed)):
                pooled.add(RunPaths(run).evaluation / ROWS, seed)
            for cell in (cell for cell in cells if cell.seed == seed):
                run = self._runner.evaluated(cell)
                pooled.add(RunPaths(run).evaluation / ROWS, seed, {cell.target: cell.name})
        return pooled

    def _next_item(self, seed: int) -> Path:
        """The run with the next-item model's lists; its settings are chosen on the first seed too."""
        run = self._runner.folder / f"seed{seed}" / "next-item"
        out = RunPaths(run).evaluation / ROWS

        def work() -> None:
            first = RunPaths(self._next_item(FIRST)).evaluation / ROWS if seed != FIRST else None
            trials = SASREC_TRIALS if first is None else [chosen_trial(first)]
            write_rows(self._runner.config(self._runner.prior(seed), {"run.seed": seed}), out, trials)

        return self._runner.once(run, {"run.seed": seed}, "next item", out, work)

    def _beside(self, name: str) -> Path:
        """Of a picture."""
        return self._out.with_name(f"{self._out.stem}-{name}.png")


def _trades(numbers: Numbers, weights: dict[str, float]) -> list[Result]:
    """Of every target with this reward."""
    names = {target: pareto_name(target, weights) for target in PARETO_TARGETS}
    (metric,) = weights.keys() & ASKED.keys()
    return [
        numbers.trade(name, metric, {other: names[other] for other in names if other != target})
        for target, name in names.items()
    ]


def pair_of(names: dict[str, str], numbers: Numbers, summaries: Sequence[Result]) -> Result:
    """Static and BLADE against SFT and each other, greedily, by what their cells are called."""
    pair = (names["blade"], names["static"], MAIN)
    return {
        "minus_sft": {target: numbers.minus(name, "sft", MAIN) for target, name in names.items()},
        "blade_minus_static": numbers.minus(*pair),
        "relative": numbers.ratio(*pair),
        "informative_groups": {
            target: statistics.fmean(of["informative_groups"] for of in summaries if of["name"] == name)
            for target, name in names.items()
        },
    }


def front_point(numbers: Result, metric: str) -> tuple[Result, Result]:
    """What a policy has of the metric, and of NDCG."""
    return numbers[metric], numbers[MAIN]


def searches(sampled: Result) -> dict[str, dict[int, Result]]:
    """How a search chooses -> N -> NDCG, N = 1 first: one sample of the reference."""
    results: dict[str, dict[int, Result]] = {}
    for choice, mark in (("blind", ""), ("oracle", " (oracle)")):
        names = {n: f"sft best of {n}{mark}" for n in BEST_OF}
        known = {n: sampled[name][MAIN] for n, name in names.items() if name in sampled}
        results[f"SFT, best of N, {choice}"] = {1: sampled["sft"][MAIN], **known}
    return results


def pareto_cells(seed: int, rates: dict[str, float], rewards: Sequence[dict[str, float]]) -> list[Cell]:
    """A cell for each target and reward, at the target's own learning rate."""
    return [
        Cell(seed, pareto_name(target, weights), rates[target], {"target": target, "reward.weights": weights})
        for target in PARETO_TARGETS
        for weights in rewards
    ]


def sensitivity_cells(plain: Cell, preset: Callable[[str], Any]) -> dict[str, dict[str, Cell]]:
    """Setting -> value -> the plain cell with it."""
    return {
        name: {str(value): changed(plain, name, value, preset) for value in values}
        for name, values in SENSITIVITY.items()
    }


def changed(plain: Cell, name: str, value: Any, preset: Callable[[str], Any]) -> Cell:
    """A cell of the main table with another value of a setting; itself where the preset has this value."""
    if value == preset(name):
        return plain
    return replace(plain, name=f"{plain.name} {name} {value}", changes={**plain.changes, name: value})


def pareto_name(target: str, weights: dict[str, float]) -> str:
    """Of a target with a reward."""
    return " ".join([target, *(f"{weight:+g} {name}" for name, weight in weights.items())])
