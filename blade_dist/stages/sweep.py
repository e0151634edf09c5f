"""``blade-dist sweep``: alignments that differ in some settings, beside each other, as trials of Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from blade_dist.cluster.lost import lost_nodes
from blade_dist.cluster.placement import cluster_nodes, demand, place_copies
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.errors import RoleLostError, UserError
from blade_dist.stages.align import is_aligned
from blade_dist.stages.constraints import check_limits
from blade_dist.stages.opened import OpenedRun
from blade_dist.stages.prior import prior_stage
from blade_dist.stages.trials import Halving, Trial, run_trials
from blade_dist.store.files import read_json
from blade_dist.store.run import RunPaths
from blade_dist.sweep.comparable import Obstacle, obstacle
from blade_dist.sweep.results import Criterion, Outcome, ranked, render, write_results
from blade_dist.sweep.space import SEED, Point, points
from blade_dist.tracking.bar import RAY, waiting
from blade_dist.tracking.say import last_lines, say, show_table

TABLE_WIDTH = 200
"""Characters of a line where no terminal says how many it has."""


def sweep_stage(
    run: OpenedRun, over: Sequence[str], samples: int | None, by: Criterion, early_stop: bool, console: Console
) -> list[Outcome]:
    """Aligns every point that is not done, in ``<run.dir>/sweep``; shows and writes the outcomes of all.

    Args:
        run: what all points share.
        over: settings with their values, as :func:`blade_dist.sweep.space.points` takes them.
        samples: number of points that are drawn, each under all seeds; None: all.
        by: what points are compared by.
        early_stop: whether a point stops early if it is worse than others were after as many steps. Off where points
            can't be compared (see :func:`blade_dist.sweep.comparable.obstacle`), and with several seeds, where the
            mean over the seeds decides.
        console: for messages.

    Returns:
        The outcomes, the best one first; those that differ in their seed alone follow each other.

    Raises:
        UserError: a point that could not run; a folder of the sweep that was made with other settings.
    """
    swept = points(run.config, over, samples)
    opened = {point.folder: run.under(point.config) for point in swept}
    trials, whole = _trials(run, swept, opened, by)
    hindered = obstacle(swept, by)
    seeds = {point.config.run.seed for point in swept}
    why_not = hindered.why if hindered else f"{SEED} has several values" if len(seeds) > 1 else None
    if early_stop and why_not:
        say(console, f"sweep: {why_not}, so none is stopped early")
    halving = early_stop and why_not is None
    todo = [name for name, trial in trials.items() if name not in whole and not (halving and trial.ends_early())]
    say(console, f"sweep: {len(trials)} points, {len(trials) - len(todo)} of them done")
    if todo:
        _run(run, opened, trials, todo, _scheduler(trials, todo, by) if halving else None, console)
    groups = ranked([_outcome(point, trials[point.folder]) for point in swept], by)
    outcomes = [outcome for group in groups for outcome in group]
    write_results(outcomes, by, run.paths.root / "sweep")
    _show(groups, by, hindered, last_lines(console))
    return outcomes


def _trials(
    run: OpenedRun, swept: Sequence[Point], opened: Mapping[str, OpenedRun], by: Criterion
) -> tuple[dict[str, Trial], set[str]]:
    """A trial per point, by the name of its folder; and the names of those that are whole.

    Raises:
        UserError: what is in a folder was made with other settings; nothing to compare by is measured.
    """
    trials, whole = {}, set()
    for point in swept:
        if by == "validation" and not point.config.train.validation_prompts:
            raise UserError("--by validation: nothing is validated; set train.validation_prompts, or leave it out")
        of_point = opened[point.folder]
        folder = run.paths.root.absolute() / "sweep" / point.folder
        config = point.config.model_copy(update={"run": point.config.run.model_copy(update={"dir": folder})})
        trial = Trial(config, by, shares_prior=of_point.prior_stamp == run.prior_stamp)
        if is_aligned(of_point, _stage(trial), f"the alignment with {point.label}"):
            whole.add(point.folder)
        trials[point.folder] = trial
    return trials, whole


def _scheduler(trials: Mapping[str, Trial], todo: Sequence[str], by: Criterion) -> Halving:
    """One that knows the outcomes of earlier sweeps, so that the trials ``todo`` are compared with these too."""
    scheduler = Halving(trials, by)
    for name in trials.keys() - set(todo):
        scheduler.recall(name, _rows(trials[name]))
    return scheduler


def _run(
    run: OpenedRun,
    opened: Mapping[str, OpenedRun],
    trials: Mapping[str, Trial],
    todo: list[str],
    scheduler: Halving | None,
    console: Console,
) -> None:
    """Runs the trials ``todo``; first makes the prior, where some share the run's; ``opened``: the points' runs."""
    with ray_runtime(run.config, waiting(console, RAY)):
        if sharing := [name for name in todo if trials[name].shares_prior]:
            prior = prior_stage(run, console)
            for name in sharing:
                check_limits(opened[name], prior, console)
        for name in todo:
            _prepare(trials[name])
        places = place_copies(cluster_nodes(), demand(run.config), len(todo))
        say(console, f"sweep: {len(todo)} to run, {len(places)} at once")
        run_trials(trials, todo, places, scheduler, console)
        if lost := lost_nodes(node for place in places for node in place.nodes):
            raise RoleLostError(f"node {', '.join(lost)} was lost with its trials; the same command makes them anew")


def _prepare(trial: Trial) -> None:
    """Links the run's data, reference and, where it is shared, prior into the trial's folder; drops earlier notes.

    The links are relative, so that a run's folder can be moved with its sweep.
    """
    folder = trial.config.run.dir
    folder.mkdir(parents=True, exist_ok=True)
    for note in (trial.stop_note, trial.failure_note):
        note.unlink(missing_ok=True)
    links, run = RunPaths(folder), RunPaths(Path("../.."))
    targets = {links.data: run.data, links.sft: run.sft, **({links.prior: run.prior} if trial.shares_prior else {})}
    for link in (links.data, links.sft, links.prior):
        if link.is_symlink():
            link.unlink()  # a prior that was shared in an earlier sweep need not be in this one
        if link in targets and not link.exists():
            link.symlink_to(targets[link])


def _stage(trial: Trial) -> Path:
    return RunPaths(trial.config.run.dir).target(trial.config.target)


def _is_whole(trial: Trial) -> bool:
    return bool((read_json(_stage(trial) / "stage.json") or {}).get("done"))


def _rows(trial: Trial) -> list[dict[str, Any]]:
    file = _stage(trial) / "metrics.parquet"
    return pq.read_table(file).to_pylist() if file.is_file() else []


def _outcome(point: Point, trial: Trial) -> Outcome:
    rows = _rows(trial)
    if (failed := read_json(trial.failure_note)) is not None:
        return Outcome(point, "failed", rows, failed["error"])
    if _is_whole(trial):
        return Outcome(point, "whole", rows)
    if trial.ends_early():
        return Outcome(point, "stopped", rows)
    return Outcome(point, "failed", rows, "its process died")


def _show(groups: Sequence[Sequence[Outcome]], by: Criterion, hindered: Obstacle | None, console: Console) -> None:
    """The table, and the best point's settings, which are no seed's where there are several."""
    show_table(console, render(groups, by, parts=hindered is not None), TABLE_WIDTH)
    if hindered is not None:
        say(console, f"{hindered.why}: {hindered.instead}")
        return
    best = next((group for group in groups if all(outcome.ended == "whole" for outcome in group)), None)
    if best is not None:
        point = best[0].point if len(best) == 1 else best[0].point.seedless
        if point.settings:
            say(console, f"best: {point.arguments}")
