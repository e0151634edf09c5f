"""The targets against each other on a synthetic catalog, where the truth is known: every cell is a real training run.

One catalog for all seeds; a seed has its own reference, prior and alignments. Each target's learning rate is tuned on
the first seed with as many trials as any other's, by the mean reward of the last tenth of its steps.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import truth
import typer
import yaml
from report import write_result
from rich.console import Console
from rich.table import Table

from blade_dist.artifacts import RunPaths

RATES = (1e-3, 2e-3, 4e-3)
"""Learning rates that every target is tried with."""
TAUS = (0.05, 0.1, 0.3, 0.6, 0.9, "auto")
TARGETS = ("static", "blade", "grpo", "best_of_n_sft")
LAST = 0.1
"""Share of the steps, at the end, that values are means of."""
SETTINGS: dict[str, Any] = {
    "codec": {"prompt": "{history}", "kind": "semantic_id", "levels": 1, "codes": 16},
    "model": {
        "build": {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_size": 192, "context": 96},
    },
    "sft": {"lr": 5e-3, "epochs": 20, "batch_size": 128, "patience": 2},
    "reward": {"weights": {"truth:expected_ndcg": 1.0, "ild@5": 0.3}},
    "prior": {"size": 32},
    "rollout": {"temperature": 1.0, "group_size": 16, "max_num_seqs": 512},
    "learner": {"bon_n": 16, "schedule": "constant"},
    "train": {"prompts": 256, "prompts_per_step": 32},
    "evaluate": {"metrics": ["ndcg@5", "ild@5", "mgu@5"]},
    "tracking": {"tensorboard": False},
}
DATA = {"max_history": 10, "windows": 2}
SYNTHETIC = {"users": 600, "items": 100, "groups": 8, "interactions": 30}


@dataclass(frozen=True)
class Cell:
    """One alignment of one seed."""

    target: str
    lr: float
    tau: float | str = 0.3

    @property
    def name(self) -> str:
        tau = f"-tau{self.tau}" if self.target == "blade" else ""
        return f"{self.target}{tau}-lr{self.lr:g}"


class Study:
    """Cells in a folder, each run once."""

    def __init__(self, folder: Path, steps: int, console: Console) -> None:
        self._folder, self._steps, self._console = folder.absolute(), steps, console
        cores = len(os.sched_getaffinity(0))
        self._settings = SETTINGS | {
            "rollout": SETTINGS["rollout"] | {"cpus_per_engine": cores},
            "learner": SETTINGS["learner"] | {"cpus_per_worker": cores},
            "train": SETTINGS["train"] | {"steps": steps, "checkpoint_every": steps},
        }

    def prepare(self, seed: int) -> Path:
        """The seed's run with data, reference and prior; the catalog of all seeds first."""
        catalog, run = self._folder / "catalog", self._folder / f"seed{seed}" / "base"
        made = {"data": DATA | {"source": "synthetic", "synthetic": SYNTHETIC}, "run": {"dir": str(catalog)}}
        self._blade("data", self._write(catalog.with_suffix(".yaml"), made))
        log = catalog / "data" / "synthetic"
        table = {"source": "table", "path": str(log / "log.parquet"), "items": str(log / "items.parquet")}
        given = {"data": DATA | table | {"columns": {"groups": "groups"}}, "run": {"dir": str(run), "seed": seed}}
        config = self._write(run.parent / "base.yaml", given)
        for stage in ("data", "sft", "prior"):
            self._blade(stage, config)
        return config

    def run(self, cell: Cell, seed: int) -> dict[str, Any]:
        """Numbers of a cell; trained where that is not done."""
        config = self.prepare(seed)
        base, run = config.parent / "base", config.parent / cell.name
        run.mkdir(exist_ok=True)
        for part in ("data", "sft", "prior.arrow"):
            if not (run / part).exists():
                (run / part).symlink_to(base / part)
        changes = {"run.dir": run, "target": cell.target, "learner.lr": cell.lr, "posterior.tau": cell.tau}
        self._blade("train", config, *(f"{name}={value}" for name, value in changes.items()))
        rows = pq.read_table(RunPaths(run).target(cell.target) / "metrics.parquet").to_pylist()
        found = numbers(rows)
        self._console.print(
            f"seed {seed} {cell.name}: reward {found['reward']:.4f}, informative {found['informative']:.3f}"
        )
        return {"seed": seed, "target": cell.target, "lr": cell.lr, "tau": cell.tau, **found}

    def tuned(self, target: str, seed: int, tau: float | str = 0.3) -> list[dict[str, Any]]:
        """The target with every learning rate, the best one first."""
        cells = [self.run(Cell(target, lr, tau), seed) for lr in RATES]
        return sorted(cells, key=lambda cell: -cell["reward"])

    def _write(self, path: Path, given: dict[str, Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self._settings | given))
        return path

    def _blade(self, stage: str, config: Path, *settings: str) -> None:
        command = [sys.executable, "-m", "blade_dist", stage, str(config)]
        command += [part for setting in settings for part in ("--set", setting)]
        known = {truth.FOLDER: str(self._folder / "catalog"), "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(command, env=os.environ | known, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


def numbers(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the last tenth of the steps, and the whole curves."""
    last = rows[-max(1, round(LAST * len(rows))) :]

    def mean(name: str) -> float:
        return statistics.fmean(row[name] for row in last)

    found = {"reward": mean("reward"), "informative": mean("informative_groups"), "kl": mean("kl")}
    found |= {name: mean(name) for name in rows[0] if name.startswith(("reward/", "posterior/")) and "pit_" not in name}
    curves = {name: [row[name] for row in rows] for name in ("reward", "informative_groups")}
    return found | {"curves": curves}


def summary(cells: list[dict[str, Any]], floor: float) -> dict[str, Any]:
    """Ratios of BLADE (tau 0.3) to static, over all seeds.

    Args:
        cells: at each target's own learning rate, every seed.
        floor: smallest share of informative groups that a ratio is taken of: one group of a step.
    """

    def mean(target: str, name: str) -> float:
        return statistics.fmean(cell[name] for cell in cells if cell["target"] == target)

    return {
        "reward_ratio_blade_static": mean("blade", "reward") / mean("static", "reward"),
        "informative_ratio": mean("blade", "informative") / max(floor, mean("static", "informative")),
        "by_target": {t: {n: mean(t, n) for n in ("reward", "informative", "kl")} for t in TARGETS},
    }


def tau_summary(cells: list[dict[str, Any]]) -> dict[str, float]:
    """How far the best fixed tau is from the worst and from ``auto``, by the final mean reward."""
    fixed = [cell["reward"] for cell in cells if cell["tau"] != "auto"]
    (auto,) = (cell["reward"] for cell in cells if cell["tau"] == "auto")
    best = max(fixed)
    return {"tau_spread": (best - min(fixed)) / best, "auto_tau_gap": (best - auto) / best}


def main(
    folder: Annotated[Path, typer.Option(help="Where runs are kept; what is done there is not done again.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds.")] = 3,
    steps: Annotated[int, typer.Option(min=10, help="Steps of each alignment.")] = 200,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Trains every target at its own learning rate on every seed, and BLADE over tau on the first.

    Examples:

      python benchmarks/study.py --folder runs/study --json study.json

      python benchmarks/study.py --folder runs/short --seeds 1 --steps 20
    """
    console = Console()
    study = Study(folder, steps, console)
    trials = {target: study.tuned(target, 0) for target in TARGETS}
    best = {target: tried[0]["lr"] for target, tried in trials.items()}
    cells = [tried[0] for tried in trials.values()]
    cells += [study.run(Cell(target, best[target]), seed) for seed in range(1, seeds) for target in TARGETS]
    taus = [study.run(Cell("blade", best["blade"], tau), 0) for tau in TAUS]
    found = summary(cells, floor=1 / SETTINGS["train"]["prompts_per_step"]) | tau_summary(taus)
    show(found, taus, console)
    settings = {"seeds": seeds, "steps": steps, "rates": RATES, "synthetic": SYNTHETIC, "config": SETTINGS}
    write_result(json, "study", settings, found | {"cells": cells, "trials": trials, "taus": taus})


def show(found: dict[str, Any], taus: list[dict[str, Any]], console: Console) -> None:
    """A row per target, then per tau."""
    table = Table("", "reward", "informative", "KL", title="mean of the last tenth of the steps")
    for target, values in found["by_target"].items():
        table.add_row(target, *(f"{values[name]:.4f}" for name in ("reward", "informative", "kl")))
    for cell in taus:
        table.add_row(f"blade, tau {cell['tau']}", *(f"{cell[name]:.4f}" for name in ("reward", "informative", "kl")))
    console.print(table)
    for name in ("reward_ratio_blade_static", "informative_ratio", "tau_spread", "auto_tau_gap"):
        console.print(f"{name}: {found[name]:.3f}")


if __name__ == "__main__":
    typer.run(main)
