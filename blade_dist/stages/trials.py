"""The points of a sweep as trials of Ray Tune, and the scheduler that ends bad ones."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.util.queue import Empty, Queue
from rich.console import Console

from blade_dist.cluster.lost import lost_nodes
from blade_dist.cluster.placement import Placement
from blade_dist.errors import origin
from blade_dist.settings import Config
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.files import read_json, write_json
from blade_dist.sweep.results import Criterion, value_so_far
from blade_dist.tracking.say import say

PLACE_S = 60.0
"""How long a trial may wait for a place: there are as many as trials at once, unless one was lost with its trial."""

TRIAL_BYTES = 2**20
"""What Tune reserves for a trial, as a trial must reserve something; its engines and learners reserve the cores."""

HALVING = 2
"""ASHA's reduction factor: of those that get as far, one in so many continues."""

GRACE = 4
"""The first look at a point is after one in so many of its steps."""

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Tune's environment: no files of Tune's, steps without a validation allowed, paths as the user wrote them."""

HANDED_ON = ("HF_HUB_OFFLINE", "DS_ACCELERATOR")
"""Variables of the driver's that count in a trial too."""


@dataclass(frozen=True)
class Trial:
    """A point in its folder; plain data, as it travels to the trial's process."""

    config: Config
    """``run.dir`` is the folder, absolute."""
    by: Criterion
    shares_prior: bool
    """Whether the sweep's prior is the trial's too."""

    @property
    def stop_note(self) -> Path:
        """The note that it was, or is to be, stopped early: by what criterion, at which step, at what value."""
        return self.config.run.dir / "stopped.json"

    @property
    def failure_note(self) -> Path:
        """The note that it failed."""
        return self.config.run.dir / "failed.json"

    def ends_early(self) -> bool:
        """Whether it was, or is to be, stopped early by this criterion; one of another criterion's sweep runs on."""
        return (read_json(self.stop_note) or {}).get("by") == self.by


class TrialListener:
    """Hands a trial's rows on to Tune; ends the trial where the scheduler left a note that it should."""

    def __init__(self, trial: Trial, stop: Callable[[], None]) -> None:
        self._trial = trial
        self._stop = stop
        self._rows: list[dict[str, float]] = []

    def __enter__(self) -> TrialListener:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def waiting(self, doing: str) -> None:
        pass

    def update(self, step: int, row: dict[str, float]) -> None:
        """Returns when the scheduler has seen the row."""
        self._rows.append(row)
        value = value_so_far(self._trial.by, self._rows)
        if value is not None:
            tune.report({"step": step + 1, self._trial.by: value})
        if self._trial.ends_early():
            self._stop()


class Halving(ASHAScheduler):
    """Asynchronous successive halving (ASHA, Li et al., MLSys 2020) whose decision is a note that the trial reads.

    Tune would kill the trial's actor. Ray keeps the placement groups of a killed actor until the whole job has ended;
    a trial that ends by itself leaves nothing behind, and counts as running until then.
    """

    def __init__(self, trials: Mapping[str, Trial], by: Criterion) -> None:
        steps = max(trial.config.train.steps for trial in trials.values())
        super().__init__("step", by, "max", max_t=steps, grace_period=max(1, steps // GRACE), reduction_factor=HALVING)
        self._trials = trials
        self._by = by

    def recall(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Shows what an earlier sweep's trial came to."""
        known: Any = SimpleNamespace(trial_id=name)
        self.on_trial_add(None, known)
        for at, row in enumerate(rows, start=1):
            if (value := value_so_far(self._by, rows[:at])) is not None:
                super().on_trial_result(None, known, {"step": row["step"] + 1, self._by: value})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Never stops a trial itself: it leaves the note."""
        judged = self._trials[trial.config["name"]]
        ends = super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP
        if ends and result["step"] < judged.config.train.steps and not judged.ends_early():
            write_json(judged.stop_note, {"by": self._by, "step": result["step"], "value": result[self._by]})
        return TrialScheduler.CONTINUE


def run_trials(
    trials: Mapping[str, Trial],
    names: list[str],
    places: list[Placement],
    scheduler: Halving | None,
    console: Console,
) -> None:
    """Runs the trials of these names to their ends, whatever they are, one in each place at a time."""
    folder = trials[names[0]].config.run.dir.parent / ".tune"
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.update(QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is a row of the table
    environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    queue = Queue(actor_options={"num_cpus": 0})
    queue.put_nowait_batch(places)
    work = tune.with_parameters(_run_trial, trials=dict(trials), places=queue, environment=environment)
    run = tune.RunConfig(name="trials", storage_path=str(folder), verbose=0, callbacks=[_TrialLines(trials, console)])
    try:
        tune.Tuner(
            tune.with_resources(work, {"memory": TRIAL_BYTES}),
            param_space={"name": tune.grid_search(names)},
            tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=len(places)),
            run_config=run,
        ).fit()
    finally:
        queue.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _run_trial(given: dict[str, Any], trials: Mapping[str, Trial], places: Queue, environment: dict[str, str]) -> None:
    """Aligns one point, in a free place of the cluster.

    Args:
        given: the trial's ``name``.
        trials: all of them, by name.
        places: queue of placements.
        environment: variables of the driver's that count here too.
    """
    os.environ.update(environment)
    trial = trials[given["name"]]
    try:
        with _free_place(places) as place, (trial.config.run.dir / "log.txt").open("a") as log:
            align_stage(open_run(trial.config), Console(file=log, width=160), place, partial(TrialListener, trial))
    except Exception as error:
        write_json(trial.failure_note, {"error": first_line(error)})
        raise


@contextmanager
def _free_place(places: Queue) -> Iterator[Placement]:
    """Takes a free place for the length of the block.

    Raises:
        RuntimeError: none became free.
    """
    try:
        place = places.get(timeout=PLACE_S)
    except Empty:
        raise RuntimeError(f"no place of the cluster became free within {PLACE_S:.0f} s") from None
    try:
        yield place
    finally:
        if not lost_nodes(place.nodes):
            places.put(place)


def first_line(error: BaseException) -> str:
    """The first line of the error's origin, see :func:`~blade_dist.errors.origin`; its type where it says nothing."""
    first = origin(error)
    return next((line for line in str(first).splitlines() if line.strip()), type(first).__name__)


class _TrialLines(tune.Callback):
    """A line for every trial that starts, and that ends."""

    def __init__(self, trials: Mapping[str, Trial], console: Console) -> None:
        self._trials = trials
        self._console = console

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves its callbacks beside the trials, and a console is no data."""
        return {}

    def on_trial_start(self, *, trial: Any, **_: Any) -> None:
        self._say(trial, "started")

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        ended, last = self._trials[trial.config["name"]], trial.last_result
        early, value = ", stopped early" * ended.ends_early(), last.get(ended.by, float("nan"))
        self._say(trial, f"ended after step {last.get('step')}{early}: {ended.by} {value:.4f}")

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        self._say(trial, "failed")

    def _say(self, trial: Any, what: str) -> None:
        say(self._console, f"sweep: {trial.config['name']} {what}")
