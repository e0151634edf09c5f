"""The quality table: every target, searches and baselines on a real log, with intervals over users pooled over seeds.

``docs/results.md`` says how to read it. Every run is kept in a folder, and each of its commands is run once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.quality.compare import MAIN
from benchmarks.quality.movielens import PARETO, RATES, TARGETS, LogStudy
from benchmarks.quality.regimes import TARGETS as STUDIED
from benchmarks.quality.runner import Runner
from benchmarks.quality.synthetic import run_study
from benchmarks.report import HEAD, write_result
from benchmarks.tables import movielens as tables
from benchmarks.tables.text import show, signed
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.store.files import read_json

COLUMNS = {MAIN, "ild@5", "mgu@5"}
"""Metrics that tables and pictures are about."""
PRESET = "cpu"
PRESETS = Path(__file__).parent / "presets"
FIXED: dict[str, tuple[Any, str]] = {
    "data.split": ("leave_last", "segments count what lies before a user's last items"),
    "data.min_rating": (None, "segments count what lies before a user's last items in the whole log"),
    "data.windows": (0, "the next-item model learns from every prefix"),
    "evaluate.max_prompts": (None, "all seeds and models have the same test prompts"),
}
"""What a preset may not change, and why."""


class Part(StrEnum):
    """What is measured."""

    main = "main"
    pareto = "pareto"
    sensitivity = "sensitivity"
    references = "references"


def main(
    data: Annotated[
        Path | None, typer.Option(help="Log in MovieLens format: a folder with ratings.csv, movies.csv.")
    ] = None,
    synthetic: Annotated[bool, typer.Option(help="The synthetic study instead, where the truth is known.")] = False,
    preset: Annotated[
        str, typer.Option(help="Settings: a name in benchmarks/quality/presets, or a YAML file.")
    ] = PRESET,
    folder: Annotated[Path, typer.Option(help="Where runs are kept; what is done there is not done again.")] = Path(
        "runs/quality"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the parts main and references.")] = 3,
    part: Annotated[list[Part] | None, typer.Option(help="What is measured; may be repeated. Default: main.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Rows of the main part; may be repeated. Default: all.")
    ] = None,
    trade: Annotated[
        list[str] | None,
        typer.Option(help="Rewards of the pareto part, by what is added to NDCG; may be repeated. Default: all."),
    ] = None,
    rate: Annotated[list[float] | None, typer.Option(help="Learning rates that are tried; may be repeated.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="The result file. Default: quality.json, or synthetic.json, in the folder.")
    ] = None,
) -> None:
    """Runs what is missing, prints the tables, and writes a summary (JSON) with pictures (PNG) beside it.

    The rows of every list (Parquet) lie in the folder of the runs, the curves in theirs (metrics.parquet).

    The file is written after each part; parts that it holds already, with the same settings, stay there.

    Examples:

      python -m benchmarks.quality --data ml-latest-small --preset cpu --json out.json

      python -m benchmarks.quality --data ml-latest-small --part pareto --part sensitivity

      python -m benchmarks.quality --data ml-latest-small --part pareto --trade ild@5=1 --trade mgu@5=-3

      python -m benchmarks.quality --synthetic --json out.json
    """
    out = json or folder / ("synthetic.json" if synthetic else "quality.json")
    if synthetic:
        if data or part or trade or rate or preset != PRESET:
            raise typer.BadParameter("takes --seeds, --target, --folder and --json only", param_hint="--synthetic")
        studied = _known("--target", target, STUDIED)
        if missing := {"static", "blade"} - set(studied):
            raise typer.BadParameter(f"{', '.join(missing)} is what ratios are of: leave it in", param_hint="--target")
        run_study(folder / "synthetic", seeds, out, studied)
        return
    if data is None or not (data / "ratings.csv").is_file():
        raise typer.BadParameter(
            f"{data}: no ratings.csv there; give a folder in MovieLens format", param_hint="--data"
        )
    chosen, trades = _known("--target", target, list(TARGETS)), _known("--trade", trade, list(PARETO))
    path = PRESETS / f"{preset}.yaml" if (PRESETS / f"{preset}.yaml").is_file() else Path(preset)
    config, console, rates = _read(path, data), Console(), rate or list(RATES)
    settings = {"preset": config.model_dump(mode="json"), "seeds": seeds, "rates": rates}
    results = _results(out, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    runner = Runner(folder, path, console, data)
    study = LogStudy(runner, data, rates, out)
    with runner.start():
        for name in part or [Part.main]:
            if name is Part.main:
                family = [MAIN] if config.reward.weights == {MAIN: 1.0} else [MAIN, "reward"]
                results |= study.main(chosen, seeds, family)
                show({title: rows(results) for title, rows in tables.MAIN_TABLES.items()}, console)
                for against, of in results["held_out_ndcg5"].items():
                    text = f"held_out_ndcg5.{against}: {signed(of)}, relative {signed(of['relative'], '.1%')}"
                    console.print(text, highlight=False, markup=False)
            elif name is Part.pareto:
                results[name] = study.pareto(trades)
                show({"greedy; asked: see compare.ASKED": tables.trades(results)}, console)
            elif name is Part.sensitivity:
                results[name] = study.sensitivity()
                show({"greedy, one setting changed": tables.sensitivity(results)}, console)
            else:
                results[name] = study.references(seeds)
                show({"NDCG@5, greedy": tables.references(results)}, console)
            write_result(out, "quality", settings, results | {"seconds": runner.seconds()})
    console.print(f"result: {out}", highlight=False, soft_wrap=True)


def _results(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Parts that the result file holds already."""
    held = read_json(out) or {}
    if held and held["settings"] != settings:
        message = f"{out} holds results of another preset, other seeds or rates; choose another file"
        raise typer.BadParameter(message, param_hint="--json")
    return {name: value for name, value in held.items() if name not in HEAD}


def _known(option: str, given: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    """The given names where all are known; without any, all there are."""
    if unknown := sorted(set(given or []) - set(known)):
        message = f"{', '.join(unknown)}: unknown; one of: {'; '.join(known)}"
        raise typer.BadParameter(message, param_hint=option)
    return given or known


def _read(path: Path, data: Path) -> Config:
    """The preset, if it is one that this table can be made with; of the log it has the name alone, wherever it lies."""
    try:
        config = load_config(path, ["data.source=movielens", f"data.path={data.resolve().name}"])
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--preset") from None
    wrong = ""
    if not config.train.validation_prompts:
        wrong = "train.validation_prompts is 0, and learning rates are chosen by them"
    if missing := sorted(COLUMNS - set(config.evaluate.metrics)):
        wrong = f"evaluate.metrics lacks {', '.join(missing)}"
    for name, (value, why) in FIXED.items():
        section, field = name.split(".")
        if getattr(getattr(config, section), field) != value:
            wrong = f"{name} must be {'unset' if value is None else value}: {why}"
    if wrong:
        raise typer.BadParameter(f"{path}: {wrong}", param_hint="--preset")
    return config


if __name__ == "__main__":
    typer.run(main)
