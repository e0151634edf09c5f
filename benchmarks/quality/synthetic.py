"""The targets on a synthetic catalog, where the truth is known: every cell is a real training run.

One catalog for all seeds; a seed has its own reference, training prompts, prior and alignments. Each target's learning
rate is tuned on the first seed with as many trials as any other's, by the mean reward of the last tenth of its steps.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.quality import ground_truth
from benchmarks.quality.pictures import draw_curves
from benchmarks.quality.proxy_fidelity import supervision
from benchmarks.quality.regimes import MAIN, NOISE, RATES, SEARCHES, TAU, TAUS, TWO_LEVELS, Regime
from benchmarks.quality.stages import link, one_ray, stage
from benchmarks.report import write_result
from blade_dist.evaluation.bootstrap import paired_bootstrap
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.opened import open_run
from blade_dist.stages.prior import open_prior
from blade_dist.store.run import RunPaths
from blade_dist.tracking.means import mean_of_last

FIRST = 0
"""The seed that learning rates are chosen on, and that the smaller regimes are of."""
TRUE_LISTS = 2048
"""Reference lists per prompt that stand for the true distribution of rewards."""
PRESET = Path(__file__).parent / "presets" / "synthetic.yaml"


@dataclass(frozen=True)
class Cell:
    """One alignment of one seed."""

    regime: Regime
    seed: int
    target: str
    lr: float
    tau: float | str = 0.3

    @property
    def name(self) -> str:
        tau = f"-tau{self.tau}" if self.target == "blade" else ""
        return f"{self.target}{tau}-lr{self.lr:g}"


class Study:
    """Cells in a folder, each run once, all of them in one Ray."""

    def __init__(self, folder: Path, preset: Path, console: Console) -> None:
        self._folder, self._preset, self._console = folder.absolute(), preset, console

    def start(self) -> AbstractContextManager[None]:
        """Ray, whose processes find the truth."""
        catalog = self._folder / MAIN.catalog
        return one_ray(self._config(catalog, MAIN, FIRST), {ground_truth.FOLDER: str(catalog)})

    def run(self, cell: Cell) -> dict[str, Any]:
        """Numbers of a cell; trained where that is not done."""
        run = self._aligned(cell)
        rows = pq.read_table(RunPaths(run).target(cell.target) / "metrics.parquet").to_pylist()
        found = numbers(rows)
        self._say(f"reward {found['reward']:.4f}, informative {found['informative']:.3f}", cell)
        known = {"regime": cell.regime.name, "name": cell.target, "seed": cell.seed, "target": cell.target}
        return {**known, "lr": cell.lr, "tau": cell.tau, **found}

    def tuned(self, regime: Regime, target: str) -> list[dict[str, Any]]:
        """The target with every learning rate, the best one first."""
        cells = [self.run(Cell(regime, FIRST, target, lr)) for lr in RATES]
        return sorted(cells, key=lambda cell: -cell["reward"])

    def searched(self, metric: str, lr: float) -> dict[str, Any]:
        """BLADE's greedy list against the reference's Best-of-16 by the metric of both, on test prompts.

        Only on those of users whom the alignment has no prompt of; the reference knows earlier items of theirs.
        """
        cell = Cell(SEARCHES[metric], FIRST, "blade", lr)
        run = self._aligned(cell)
        paths = RunPaths(run)
        if not (paths.evaluation / "per_user.parquet").is_file():
            stage("evaluate", self._settings(cell, run), paths.policy("blade"), paths.reference)
        rows = pq.read_table(paths.evaluation / "per_user.parquet").to_pandas()
        opened = open_run(self._settings(cell, run))
        rows = rows[~rows["user"].isin(opened.data.train.rows(opened.rows).user)]
        found = against_search(rows, next(iter(cell.regime.changes["reward.weights"])))
        self._say(f"{metric}: {found['mean']:+.4f} against the search", cell)
        return found

    def supervised(self, seed: int) -> list[dict[str, float]]:
        """How well the proxies of a seed's prompts know the true F, see :mod:`supervision`."""
        config = self._config(self._folder / f"seed{seed}" / "truth", MAIN, seed, {"prior.size": TRUE_LISTS})
        link(config.run.dir, {"data": self._folder / MAIN.catalog, "sft": self._base(MAIN, seed)})
        stage("prior", config)
        prior = open_prior(open_run(config))
        assert prior is not None  # the stage has just made it
        return supervision(prior.rewards, config.learner.bon_n)

    def floor(self) -> float:
        """Share of informative groups that a ratio is taken of at least: one group of a step."""
        return 1 / self._config(self._folder, MAIN, FIRST).train.prompts_per_step

    def settings(self) -> dict[str, Any]:
        """The main regime's."""
        return self._config(Path("runs"), MAIN, FIRST).model_dump(mode="json")

    def _aligned(self, cell: Cell) -> Path:
        base = self._base(cell.regime, cell.seed)
        run = base.parent / cell.name
        link(run, {"data": base, "sft": base, "prior.arrow": base})
        stage("train", self._settings(cell, run))
        return run

    def _base(self, regime: Regime, seed: int) -> Path:
        """The run with the regime's data, reference and prior."""
        run = self._folder / f"seed{seed}" / regime.name / "base"
        reference = self._folder / f"seed{seed}" / f"reference-{regime.reference}"
        link(reference, {"data": self._catalog(regime)})
        stage("sft", self._config(reference, regime, seed))
        link(run, {"data": reference, "sft": reference})
        stage("prior", self._config(run, regime, seed))
        return run

    def _catalog(self, regime: Regime) -> Path:
        run = self._folder / regime.catalog
        stage("data", self._config(run, regime, FIRST))
        return run

    def _settings(self, cell: Cell, run: Path) -> Config:
        own = {"target": cell.target, "learner.lr": cell.lr, "posterior.tau": cell.tau}
        return self._config(run, cell.regime, cell.seed, own)

    def _config(self, run: Path, regime: Regime, seed: int, more: dict[str, Any] | None = None) -> Config:
        given = {"run.dir": str(run), "run.seed": seed, **regime.changes, **(more or {})}
        return load_config(self._preset, [f"{name}={json.dumps(value)}" for name, value in given.items()])

    def _say(self, what: str, cell: Cell) -> None:
        self._console.print(f"{cell.regime.name}, seed {cell.seed}, {cell.name}: {what}", highlight=False)


def numbers(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the last tenth of the steps, and the whole curves."""

    def mean(name: str) -> float:
        return mean_of_last([row[name] for row in rows])

    found = {"reward": mean("reward"), "informative": mean("informative_groups"), "kl": mean("kl")}
    found |= {name: mean(name) for name in rows[0] if name.startswith(("reward/", "posterior/")) and "pit_" not in name}
    curves = {name: [row[name] for row in rows] for name in ("reward", "informative_groups")}
    taus = {"tau": [row["posterior/tau"] for row in rows]} if "posterior/tau" in rows[0] else {}
    return found | {"curves": curves | taus}


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
        "informative_ratio": mean("blade", "informative") / max(floor, mean("static", "informative")),
        "by_target": {t: {n: mean(t, n) for n in ("reward", "informative", "kl")} for t in targets},
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
    one = rows[(rows["policy"] == "blade") & (rows["decode"] == "greedy")].sort_values("prompt")
    best = rows[(rows["policy"] == "sft best of 16") & (rows["decode"] == "sampled")].sort_values("prompt")
    if one["prompt"].tolist() != best["prompt"].tolist():
        raise ValueError(f"{metric}: BLADE and the search were not evaluated on the same prompts")
    a, b = one[metric].to_numpy(), best[metric].to_numpy()
    difference = paired_bootstrap(a, b, one["user"].to_numpy(), 2000, FIRST).as_dict()
    reference = rows[(rows["policy"] == "sft") & (rows["decode"] == "greedy")][metric].mean()
    means = {"blade": float(a.mean()), "best_of_16": float(b.mean()), "sft_greedy": float(reference)}
    means["users"] = one["user"].nunique()
    return {**difference, **means, "less_is_better": metric.startswith(("mgu", "dgu"))}


def run_study(folder: Path, seeds: int, out: Path, targets: Sequence[str]) -> None:
    """Runs what is missing below ``folder``; prints the tables; writes the result, after each part, and its picture.

    ``targets`` are those of the main regime, static and blade among them.
    """
    console = Console()
    study = Study(folder, PRESET, console)
    found: dict[str, Any] = {}

    def add(**parts: Any) -> None:
        found.update(parts)
        settings = {"seeds": seeds, "rates": RATES, "taus": TAUS, "config": study.settings()}
        write_result(out, "study", settings, found)

    with study.start():
        trials = {target: study.tuned(MAIN, target) for target in targets}
        best = {target: tried[0]["lr"] for target, tried in trials.items()}
        cells = [tried[0] for tried in trials.values()]
        cells += [study.run(Cell(MAIN, s, t, best[t])) for s in range(1, seeds) for t in targets]
        floor = study.floor()
        seeds_apart = by_seed(lambda of: summary(of, floor), cells)
        add(**summary(cells, floor), by_seed=seeds_apart, cells=cells, trials=trials)
        add(blade_vs_bon16={metric: study.searched(metric, best["blade"]) for metric in SEARCHES})
        add(supervision=study.supervised(FIRST))
        small = [t for t in ("static", "blade", "grpo") if t in best]
        add(noise=[study.run(Cell(NOISE, FIRST, target, best[target])) for target in small])
        add(levels=[study.run(Cell(TWO_LEVELS, FIRST, target, best["blade"])) for target in small])
        taus: list[dict[str, Any]] = []
        for seed in range(seeds):
            taus += [study.run(Cell(TAU, seed, "blade", best["blade"], tau)) for tau in TAUS]
            add(**tau_summary(taus), taus_by_seed=by_seed(tau_summary, taus), taus=taus)
    show(found, console)
    draw_curves(cells, out.with_name(f"{out.stem}-curves.png"))


def show(found: dict[str, Any], console: Console) -> None:
    """A table of the cells, one of the searches, one of what the proxies know."""
    table = Table("regime", "target", "tau", "seed", "reward", "informative", "KL", title="means of the last tenth")
    for cell in (cell for part in ("cells", "taus", "noise", "levels") for cell in found[part]):
        values = (f"{cell[name]:.4f}" for name in ("reward", "informative", "kl"))
        table.add_row(cell["regime"], cell["target"], str(cell["tau"]), str(cell["seed"]), *values)
    console.print(table)
    table = Table(
        "metric",
        "BLADE, greedy",
        "SFT, best of 16",
        "difference",
        "95 % interval",
        title="test prompts of users that were not aligned on",
    )
    for metric, of in found["blade_vs_bon16"].items():
        interval = f"[{of['low']:+.4f}, {of['high']:+.4f}]"
        name = f"{metric} (less is better)" if of["less_is_better"] else metric
        table.add_row(name, f"{of['blade']:.4f}", f"{of['best_of_16']:.4f}", f"{of['mean']:+.4f}", interval)
    console.print(table)
    known = found["supervision"]
    table = Table(*known[0], title="a group of the best of n of the reference: what a target knows of its true F")
    for row in known:
        table.add_row(*(f"{value:.3g}" for value in row.values()))
    console.print(table)
    for name in ("reward_ratio_blade_static", "informative_ratio", "tau_spread", "auto_tau_gap"):
        console.print(f"{name}: {found[name]:.3f}")
