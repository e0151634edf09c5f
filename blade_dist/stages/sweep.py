"""``blade-dist sweep``: alignments that differ in some settings, beside each other, as trials of Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from blade_dist.cluster.placement import cluster_nodes, demand, place_copies
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.stages.align import align_stamp, check_alignment
from blade_dist.stages.constraints import check_limits
from blade_dist.stages.prior import prior_stage, prior_stamp
from blade_dist.stages.trials import Halving, Trial, run_trials
from blade_dist.store.files import read_json
from blade_dist.store.run import RunPaths, is_done
from blade_dist.sweep.comparable import Obstacle, obstacle
from blade_dist.sweep.results import Criterion, Outcome, ranked, render, write_results
from blade_dist.sweep.space import SEED, Point, points

TABLE_WIDTH = 200
"""Columns of the table where nobody looks at a terminal."""


def sweep_stage(
    config: Config, over: Sequence[str], samples: int | None, by: Criterion, early_stop: bool, console: Console
) -> list[Outcome]:
    """Aligns every point that is not done, in ``<run.dir>/sweep``; shows and writes what came of all of them.

    Args:
        config: what all points share.
        over: settings with their values, as :func:`blade_dist.sweep.space.points` takes them.
        samples: points that are drawn, each under all seeds; None: all.
        by: what they are compared by.
        early_stop: whether a point that is worse than others were after as many steps ends there. Not where points
            can't be compared (see :func:`blade_dist.sweep.comparable.obstacle`), nor under more than one seed, where a
            point's mean counts.
        console: for messages.

    Returns:
        What came of each, the best one first; those that differ in their seed alone follow each other.

    Raises:
        UserError: a point that could not run.
    """
    swept = points(config, over, samples)
    trials = _trials(config, swept, by)
    hindered = obstacle(swept, by)
    seeds = {point.config.run.seed for point in swept}
    why_not = hindered.why if hindered else f"{SEED} has several values" if len(seeds) > 1 else None
    if early_stop and why_not:
        console.print(f"sweep: {why_not}, so none is stopped early", markup=False, highlight=False, soft_wrap=True)
    halving = early_stop and why_not is None
    todo = [name for name, trial in trials.items() if not _is_over(trial, halving)]
    console.print(f"sweep: {len(trials)} points, {len(trials) - len(todo)} of them done", highlight=False)
    if todo:
        _run(config, trials, todo, _scheduler(trials, todo, by) if halving else None, console)
    groups = ranked([_outcome(point, trials[point.folder]) for point in swept], by)
    outcomes = [outcome for group in groups for outcome in group]
    write_results(outcomes, by, config.run.dir / "sweep")
    _show(groups, by, hindered, console)
    return outcomes


def _trials(config: Config, swept: Sequence[Point], by: Criterion) -> dict[str, Trial]:
    """A trial per point, by the name of its folder, of which each could be run.

    Raises:
        UserError: it could not, or what is in its folder was made with other settings.
    """
    prior = prior_stamp(config, check_alignment(config))
    folder = config.run.dir.absolute() / "sweep"
    found = {}
    for point in swept:
        if by == "validation" and not point.config.train.validation_prompts:
            raise UserError("--by validation: nothing is validated; set train.validation_prompts, or leave it out")
        inputs = check_alignment(point.config)
        run = point.config.run.model_copy(update={"dir": folder / point.folder})
        trial = Trial(point.config.model_copy(update={"run": run}), by, prior_stamp(point.config, inputs) == prior)
        is_done(_stage(trial), align_stamp(point.config, inputs), f"the alignment with {point.label}")
        found[point.folder] = trial
    return found


def _scheduler(trials: Mapping[str, Trial], todo: Sequence[str], by: Criterion) -> Halving:
    """One that knows the trials of earlier sweeps."""
    scheduler = Halving(trials, by)
    for name in trials.keys() - set(todo):
        scheduler.recall(name, _rows(trials[name]))
    return scheduler


def _run(
    config: Config, trials: Mapping[str, Trial], todo: list[str], scheduler: Halving | None, console: Console
) -> None:
    with ray_runtime(config):
        if any(trials[name].shares_prior for name in todo):
            prior_stage(config, console)
        for trial in (trials[name] for name in todo if trials[name].shares_prior):
            run = trial.config.run.model_copy(update={"dir": config.run.dir})
            point = trial.config.model_copy(update={"run": run})
            check_limits(point, check_alignment(point), console)
        for name in todo:
            _prepare(trials[name])
        places = place_copies(cluster_nodes(), demand(config), len(todo))
        console.print(f"sweep: {len(todo)} to run, {len(places)} at once", highlight=False)
        run_trials(trials, todo, places, scheduler, console)


def _prepare(trial: Trial) -> None:
    """The trial's folder: data, reference and, where it is the same, prior of the run; notes of earlier ends go."""
    folder = trial.config.run.dir
    folder.mkdir(parents=True, exist_ok=True)
    for note in (trial.stop_note, trial.failure_note):
        note.unlink(missing_ok=True)
    own, run = RunPaths(folder), RunPaths(Path("../.."))
    wanted = {own.data: run.data, own.sft: run.sft, **({own.prior: run.prior} if trial.shares_prior else {})}
    for link in (own.data, own.sft, own.prior):
        if link.is_symlink():
            link.unlink()
        if link in wanted and not link.exists():
            link.symlink_to(wanted[link])


def _stage(trial: Trial) -> Path:
    return RunPaths(trial.config.run.dir).target(trial.config.target)


def _is_whole(trial: Trial) -> bool:
    return bool((read_json(_stage(trial) / "stage.json") or {}).get("done"))


def _is_over(trial: Trial, halving: bool) -> bool:
    """Whether there is nothing left to run."""
    return _is_whole(trial) or (halving and trial.ends_early())


def _rows(trial: Trial) -> list[dict[str, Any]]:
    file = _stage(trial) / "metrics.parquet"
    return pq.read_table(file).to_pylist() if file.is_file() else []


def _outcome(point: Point, trial: Trial) -> Outcome:
    rows = _rows(trial)
    if _is_whole(trial):
        return Outcome(point, "whole", rows)
    if (failed := read_json(trial.failure_note)) is not None:
        return Outcome(point, "failed", rows, failed["error"])
    if trial.ends_early():
        return Outcome(point, "stopped", rows)
    return Outcome(point, "failed", rows, "its process died")


def _show(groups: Sequence[Sequence[Outcome]], by: Criterion, hindered: Obstacle | None, console: Console) -> None:
    """The table, and the best point's settings, which are no seed's where there are several."""
    wide = console if console.is_terminal else Console(file=console.file, width=TABLE_WIDTH)
    wide.print(render(groups, by, parts=hindered is not None))
    if hindered is not None:
        said = f"{hindered.why}: {hindered.instead}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        return
    best = next((group for group in groups if all(outcome.ended == "whole" for outcome in group)), None)
    if best is not None:
        point = best[0].point if len(best) == 1 else best[0].point.seedless
        if point.settings:
            console.print(f"best: {point.arguments}", markup=False, highlight=False, soft_wrap=True)
