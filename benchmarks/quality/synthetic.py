"""The targets on a synthetic catalog, where the truth is known: every cell is a real training run.

One catalog for all seeds; a seed has its own reference, training prompts, prior and alignments. Each target's learning
rate is tuned on the first seed with as many trials as any other's, by the mean reward of the last tenth of its steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.quality.cells import FIRST, Cell, Changes
from benchmarks.quality.pictures import draw_curves
from benchmarks.quality.proxy_fidelity import proxy_fidelity
from benchmarks.quality.regimes import (
    LIKELIEST,
    MAIN,
    NOISE,
    RATES,
    SEARCHES,
    TAU,
    TAUS,
    TRUE_NDCG,
    TWO_LEVELS,
)
from benchmarks.quality.runner import ROWS, Runner
from benchmarks.report import write_result
from benchmarks.tables.synthetic import TABLES
from benchmarks.tables.text import show
from blade_dist.evaluation.bootstrap import paired_bootstrap
from blade_dist.stages.opened import open_run
from blade_dist.stages.prior import open_prior
from blade_dist.store.run import RunPaths

Row = dict[str, Any]
"""Numbers of a cell, by their names in the result file."""
TRUE_LISTS = 2048
"""Reference lists per prompt that stand for the true distribution of rewards."""
PRESET = Path(__file__).parent / "presets" / "synthetic.yaml"


class SyntheticStudy:
    """What is measured where the truth is known."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, regime: str, changes: Changes, seed: int, target: str, lr: float, tau: float | str = 0.3) -> Row:
        """Numbers of a cell; trained where that is not done."""
        cell = _cell(regime, changes, seed, target, lr, tau)
        self._runner.aligned(cell)
        return self._row(self._runner.summary(cell), regime, tau)

    def tuned(self, target: str) -> list[Row]:
        """The target in the main regime with every learning rate, the best one first."""
        cell = _cell("main", MAIN, FIRST, target, 0.0, 0.3)
        trials = self._runner.tuned(FIRST, cell.name, cell.changes, RATES, by="reward")
        return [self._row(trial, "main", 0.3) for trial in trials]

    def curves(self, target: str, lr: float, seeds: int) -> list[dict[str, list[float]]]:
        """What is drawn of a target in the main regime, for each seed."""
        return [self._runner.curves(_cell("main", MAIN, seed, target, lr, 0.3)) for seed in range(seeds)]

    def searched(self, metric: str, lr: float) -> Row:
        """BLADE's greedy list against the reference's Best-of-16 by the metric of both, on test prompts.

        Only on those of users whom the alignment has no prompt of; the reference knows earlier items of theirs.
        """
        cell = _cell(f"search by {metric}", SEARCHES[metric], FIRST, "blade", lr, 0.3)
        run = self._runner.evaluated(cell, beside_reference=True)
        rows = pq.read_table(RunPaths(run).evaluation / ROWS).to_pandas()
        opened = open_run(self._runner.config(run, cell.settings))
        rows = rows[~rows["user"].isin(opened.data.train.rows(opened.rows).user)]
        return against_search(rows, next(iter(cell.changes["reward.weights"])))

    def supervised(self, seed: int) -> list[dict[str, float]]:
        """How well the proxies of a seed's prompts know the true F, see :mod:`proxy_fidelity`."""
        changes = {"prior.size": TRUE_LISTS}
        config = self._runner.config(self._runner.prior(seed, changes), {"run.seed": seed, **changes})
        prior = open_prior(open_run(config))
        assert prior is not None  # the runner has just made it
        return proxy_fidelity(prior.rewards, config.learner.bon_n)

    def floor(self) -> float:
        """Share of informative groups that a ratio is taken of at least: one group of a step."""
        return 1 / self._runner.preset_value("train.prompts_per_step")

    def _row(self, summary: Row, regime: str, tau: float | str) -> Row:
        """A summary by the names of the result file; what the lists are worth is ``true_reward``."""
        true = [summary[f"reward/{name}"] for name in (TRUE_NDCG, LIKELIEST) if f"reward/{name}" in summary]
        kept = {name: value for name, value in summary.items() if name != "changes" and not name.startswith("reward/")}
        return {"regime": regime, **kept, "tau": tau, "true_reward": true[0]}


def _cell(regime: str, changes: Changes, seed: int, target: str, lr: float, tau: float | str) -> Cell:
    label = f"{regime} {target}" + (f" tau {tau}" if target == "blade" else "")
    return Cell(seed, label, lr, {**changes, "target": target, "posterior.tau": tau})


def summary(cells: list[dict[str, Any]], floor: float) -> dict[str, Any]:
    """Ratios of BLADE (tau 0.3) to static, over all seeds.

    Args:
        cells: at each target's own learning rate, every seed.
        floor: smallest share of informative groups that a ratio is taken of: one group of a step.
    """

    def mean(target: str, name: str) -> float:
        return statistics.fmean(cell[name] for cell in cells if cell["target"] == target)

    targets = dict.fromkeys(cell["target"] for cell in cells)
    return {
        "reward_ratio_blade_static": mean("blade", "reward") / mean("static", "reward"),
        "informative_ratio": mean("blade", "informative_groups") / max(floor, mean("static", "informative_groups")),
        "by_target": {t: {n: mean(t, n) for n in ("reward", "informative_groups", "kl")} for t in targets},
    }


def by_seed(
    summarised: Callable[[list[dict[str, Any]]], dict[str, Any]], cells: list[dict[str, Any]]
) -> dict[str, Any]:
    """Seed -> what is summarised of its cells alone."""
    return {
        str(seed): summarised([cell for cell in cells if cell["seed"] == seed])
        for seed in sorted({cell["seed"] for cell in cells})
    }


def tau_summary(cells: list[dict[str, Any]]) -> dict[str, float]:
    """How far the best fixed tau is from the worst and from ``auto``, by the final reward, a mean over seeds."""

    def mean(tau: float | str) -> float:
        return statistics.fmean(cell["reward"] for cell in cells if cell["tau"] == tau)

    fixed = [mean(tau) for tau in {cell["tau"] for cell in cells} - {"auto"}]
    best = max(fixed)
    return {"tau_spread": (best - min(fixed)) / best, "auto_tau_gap": (best - mean("auto")) / best}


def against_search(rows: Any, metric: str) -> dict[str, float]:
    """BLADE's greedy list minus the best of 16 of the reference, per held-out user: mean and 95 % interval.

    Args:
        rows: per-user rows of an evaluation (pandas).
        metric: its column.
    """
    one = rows[(rows["policy"] == "blade") & (rows["decode"] == "list")].sort_values("prompt")
    best = rows[(rows["policy"] == "sft best of 16") & (rows["decode"] == "sampled")].sort_values("prompt")
    if one["prompt"].tolist() != best["prompt"].tolist():
        raise ValueError(f"{metric}: BLADE and the search were not evaluated on the same prompts")
    a, b = one[metric].to_numpy(), best[metric].to_numpy()
    difference = paired_bootstrap(a, b, one["user"].to_numpy(), 2000, FIRST).as_dict()
    reference = rows[(rows["policy"] == "sft") & (rows["decode"] == "list")][metric].mean()
    means = {"blade": float(a.mean()), "best_of_16": float(b.mean()), "sft_greedy": float(reference)}
    means["users"] = one["user"].nunique()
    return {**difference, **means, "less_is_better": metric.startswith(("mgu", "dgu"))}


def run_study(folder: Path, seeds: int, out: Path, targets: Sequence[str]) -> None:
    """Runs what is missing below ``folder``; prints the tables; writes the result, after each part, and its picture.

    ``targets`` are those of the main regime, static and blade among them.
    """
    console = Console()
    runner = Runner(folder, PRESET, console)
    study = SyntheticStudy(runner)
    result: dict[str, Any] = {}

    def add(**parts: Any) -> None:
        result.update(parts)
        config = runner.config(Path("runs"), {}).model_dump(mode="json")
        write_result(out, "study", {"seeds": seeds, "rates": RATES, "taus": TAUS, "config": config}, result)

    with runner.start():
        trials = {target: study.tuned(target) for target in targets}
        best = {target: tried[0]["lr"] for target, tried in trials.items()}
        cells = [tried[0] for tried in trials.values()]
        cells += [study.run("main", MAIN, seed, t, best[t]) for seed in range(1, seeds) for t in targets]
        floor = study.floor()
        add(**summary(cells, floor), by_seed=by_seed(lambda of: summary(of, floor), cells), cells=cells, trials=trials)
        add(blade_vs_bon16={metric: study.searched(metric, best["blade"]) for metric in SEARCHES})
        add(supervision=study.supervised(FIRST))
        small = [target for target in ("static", "blade", "grpo") if target in best]
        add(noise=[study.run("noise", NOISE, FIRST, target, best[target]) for target in small])
        # two levels are of one learning rate: what differs is the target alone
        add(levels=[study.run("levels", TWO_LEVELS, FIRST, target, best["blade"]) for target in small])
        taus: list[Row] = []
        for seed in range(seeds):
            taus += [study.run("tau", TAU, seed, "blade", best["blade"], tau) for tau in TAUS]
            add(**tau_summary(taus), taus_by_seed=by_seed(tau_summary, taus), taus=taus)
    show({name: rows(result) for name, rows in TABLES.items()}, console)
    curves = {target: study.curves(target, best[target], seeds) for target in targets}
    draw_curves(curves, out.with_name(f"{out.stem}-curves.png"))
