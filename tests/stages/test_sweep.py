"""A sweep: its trials, what it says, and two alignments beside each other on the real stack."""

from __future__ import annotations

import io
import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.util import placement_group_table
from ray.util.queue import Empty, Queue
from rich.console import Console

from blade_dist.cluster.placement import Demand, Node, place_copies
from blade_dist.errors import UserError, origin
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.opened import OpenedRun, open_run
from blade_dist.stages.sweep import sweep_stage
from blade_dist.stages.trials import Halving, Trial, TrialListener, _run_trial, first_line
from blade_dist.store.files import write_json
from blade_dist.store.run import RunPaths
from blade_dist.sweep.results import Criterion, Outcome
from tests.helpers.program import Program
from tests.helpers.runs import TRAIN_PROMPTS, with_settings

BASE = load_config(None, ["reward.weights={ndcg@5: 1.0}", "run.seed=7"])


def trial_of(config: Config, folder: Path, by: Criterion = "reward") -> Trial:
    run = config.run.model_copy(update={"dir": folder})
    return Trial(config.model_copy(update={"run": run}), by, shares_prior=True)


class Seen:
    """What the scheduler reads of one of Tune's trials."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.config = name, {"name": name}


def test_a_bad_trial_is_to_stop_also_by_one_of_an_earlier_sweep(tmp_path: Path) -> None:
    config = load_config(None, ["train.steps=8"])
    trials = {name: trial_of(config, tmp_path / name) for name in ("earlier", "good", "bad")}
    scheduler = Halving(trials, "reward")
    scheduler.recall("earlier", [{"step": step, "reward": 0.5} for step in range(8)])
    for name, reward in (("good", 0.6), ("bad", 0.4)):
        seen = Seen(name)
        scheduler.on_trial_add(None, seen)
        for step in range(1, 9):
            assert scheduler.on_trial_result(None, seen, {"step": step, "reward": reward}) == "CONTINUE"
    assert not trials["good"].stop_note.exists()
    assert json.loads(trials["bad"].stop_note.read_text()) == {"by": "reward", "step": 2, "value": 0.4}


@pytest.mark.parametrize(("by", "stops"), [("reward", [True]), ("validation", [])])
def test_a_note_stops_a_trial_of_its_own_criterion_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Criterion, stops: list[bool]
) -> None:
    monkeypatch.setattr("blade_dist.stages.trials.tune.report", lambda _: None)
    trial = trial_of(BASE, tmp_path, by)
    write_json(trial.stop_note, {"by": "reward", "step": 2, "value": 0.4})
    stopped: list[bool] = []
    with TrialListener(trial, lambda: stopped.append(True)) as rows:
        rows.update(2, {"reward": 0.4})
    assert stopped == stops


class Unopened:
    """A run without data and reference, of which all points share the prior."""

    def __init__(self, config: Config) -> None:
        self.config, self.paths, self.prior_stamp = config, RunPaths(config.run.dir), "stamp"

    def under(self, config: Config) -> Unopened:
        return Unopened(config)


class Swept:
    """Sweeps whose alignments take no time: every trial that is run has what ``reward`` says of its settings."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *fixed: str) -> None:
        self.config = load_config(None, [f"run.dir={folder}", "train.steps=2", *fixed])
        self.halved: list[bool] = []
        self.ran: list[str] = []
        monkeypatch.setattr("blade_dist.stages.align.align_stamp", lambda *_: {})
        monkeypatch.setattr("blade_dist.stages.sweep._run", self._run)

    def __call__(self, *over: str, by: Criterion = "reward") -> str:
        """What is said."""
        console = Console(record=True, width=300, file=io.StringIO())
        self.ran, self.halved = [], []
        sweep_stage(cast(OpenedRun, Unopened(self.config)), over, None, by, True, console)
        return console.export_text()

    def _run(
        self, _: OpenedRun, __: object, trials: dict[str, Trial], todo: list[str], scheduler: object, ___: Console
    ) -> None:
        self.ran, self.halved = list(todo), [scheduler is not None]
        for name in todo:
            config = trials[name].config
            stage = RunPaths(config.run.dir).target(config.target)
            write_json(stage / "stage.json", {"settings": {}, "done": True, "diverged": False})
            rows = [{"step": step, "reward": config.posterior.tau, "validation": 0.0} for step in range(2)]
            pq.write_table(pa.Table.from_pylist(rows), stage / "metrics.parquet")


def test_comparable_points_are_halved_and_the_best_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Swept(tmp_path, monkeypatch)
    said = sweep("posterior.tau=0.1,0.3")
    assert (len(sweep.ran), sweep.halved) == (2, [True])
    assert "none is stopped early" not in said
    assert "best: --set posterior.tau=0.3\n" in said


def test_several_seeds_are_no_rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Swept(tmp_path, monkeypatch)
    said = sweep("run.seed=0,1,2", "posterior.tau=0.1,0.3")
    assert (len(sweep.ran), sweep.halved) == (6, [False])
    assert "sweep: run.seed has several values, so none is stopped early\n" in said
    assert "best: --set posterior.tau=0.3\n" in said
    assert "best" not in Swept(tmp_path / "alone", monkeypatch)("run.seed=0,1")


@pytest.mark.parametrize(
    ("fixed", "over", "why"),
    [
        ("target=blade", "rollout.temperature=0.7,1", "points that differ in rollout.temperature have rewards that"),
        ("reward.at_least={ndcg@5: 0.1}", "posterior.tau=0.1,0.3", "a reward does not say how far reward.at_least"),
    ],
)
def test_points_that_cannot_be_compared_are_neither_halved_nor_called_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: str, over: str, why: str
) -> None:
    sweep = Swept(tmp_path, monkeypatch, fixed)
    said = sweep(over)
    assert sweep.halved == [False]
    assert f"sweep: {why}" in said
    assert f"\n{why}" in said
    assert "best" not in said


def test_a_point_that_was_stopped_by_another_criterion_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Swept(tmp_path, monkeypatch, "train.validation_prompts=8")
    note = tmp_path / "sweep" / "posterior.tau=0.1" / "stopped.json"
    write_json(note, {"by": "reward", "step": 1, "value": 0.1})
    sweep("posterior.tau=0.1,0.3")
    assert sweep.ran == ["posterior.tau=0.3"]
    sweep("posterior.tau=0.1,0.3", by="validation")
    assert sweep.ran == ["posterior.tau=0.1"]


def test_the_first_cause_is_reported() -> None:
    outer = RuntimeError("the trial failed\nTraceback ...")
    assert first_line(outer) == "the trial failed"
    outer.__cause__ = UserError("posterior.tau: no\nmore")
    assert first_line(outer) == "posterior.tau: no"
    assert first_line(KeyError()) == "KeyError"
    refused = UserError("reward.weights x: raised ValueError: 3")
    refused.__cause__ = ValueError("3")
    assert first_line(refused) == "reward.weights x: raised ValueError: 3"


def test_a_learner_s_reason_is_reported() -> None:
    closed, reason = RuntimeError("connection closed by peer"), UserError("reward.at_least ndcg@5: no")
    wrapped = RayTaskError("estimate", "Traceback ...", reason).as_instanceof_cause()
    for failures in ({0: closed, 1: reason}, {0: closed, 1: wrapped}):
        group = cloudpickle.loads(cloudpickle.dumps(WorkerGroupError("rank 0: Traceback ...", failures)))
        assert first_line(group) == str(reason)
        assert first_line(ControllerError(group)) == str(reason)
        assert isinstance(origin(group), UserError)
    bug = WorkerGroupError("rank 0: Traceback ...", {0: KeyError("step"), 1: closed})
    assert first_line(bug) == "'step'"
    assert not isinstance(origin(bug), UserError)
    assert first_line(WorkerGroupError("nobody answers", {})).startswith("Training failed due to worker errors")


class NoPlaces:
    """A queue that nobody gives a place back to."""

    def get(self, timeout: float) -> None:
        """Waits in vain, without the wait."""
        raise Empty

    def put(self, place: object) -> None:
        """Nobody can have taken one."""
        raise AssertionError


def test_a_trial_without_a_place_says_so(tmp_path: Path) -> None:
    trial = trial_of(BASE, tmp_path / "trial")
    trial.config.run.dir.mkdir()
    with pytest.raises(RuntimeError, match="no place of the cluster became free within 60 s"):
        _run_trial({"name": "trial"}, {"trial": trial}, cast(Queue, NoPlaces()), {})
    assert json.loads(trial.failure_note.read_text()) == {"error": "no place of the cluster became free within 60 s"}


def test_copies_of_a_placement_do_not_overlap() -> None:
    nodes = [Node("a", "a", 16, 4), Node("b", "b", 16, 4)]
    apart = place_copies(nodes, Demand(engines=1, workers=1), 10)
    assert len(apart) == 4
    assert len(place_copies(nodes, Demand(engines=1, workers=1), 2)) == 2
    used = [role.node.id for copy in apart for role in copy.engines + copy.learners]
    assert (used.count("a"), used.count("b")) == (4, 4)
    together = place_copies(nodes, Demand(engines=2, workers=2, colocate=True), 10)
    assert [{role.node.id for role in copy.engines + copy.learners} for copy in together] == [{"a"}, {"b"}]
    assert len(place_copies([Node("a", "a", 5)], Demand(engines=1, workers=1), 10)) == 2
    with pytest.raises(UserError, match="need 12 cores"):
        place_copies([Node("a", "a", 5)], Demand(engines=6, workers=6), 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "posterior.tau=0.1,1.5"], "posterior.tau: write a number"),
        (["--over", "reward.weights.ndgc@3=0,1"], "reward.weights 'ndgc@3': unknown metric; did you mean ndcg@3?"),
        (["--over", "learner.lr=1e-3", "--by", "validation"], "--by validation: nothing is validated"),
        (["--over", "learner.lora.modules=[q_proj],[nothing]"], "learner.lora.modules"),
    ],
)
def test_a_point_that_could_not_run_is_refused_before_any_starts(
    ready: Program, arguments: list[str], message: str
) -> None:
    assert message in ready.fails("sweep", *arguments)


STEPS = 32
OVER = "learner.lr=1e-3"


@pytest.fixture(scope="module")
def swept(
    tiny_config: Config,
    tiny_reference: Path,
    trained: dict[int, RunPaths],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Config, list[Outcome]]:
    """A sweep of one point, and, once that has been noted down as a very good one, a sweep with another beside it."""
    assert tiny_reference.is_dir()
    config = with_settings(
        tiny_config,
        tmp_path_factory.mktemp("swept") / "run",
        train={"steps": STEPS, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": STEPS},
    )
    shutil.copyfile(trained[1].prior, RunPaths(config.run.dir).prior)
    (first,) = sweep_stage(open_run(config), [OVER], None, "reward", True, Console(quiet=True))
    metrics = RunPaths(config.run.dir / "sweep" / first.point.folder).target("blade") / "metrics.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "reward": row["reward"] + 1} for row in first.rows]), metrics)
    return config, sweep_stage(open_run(config), [f"{OVER},2e-3"], None, "reward", True, Console(quiet=True))


def test_a_sweep_ends_with_a_table(swept: tuple[Config, list[Outcome]]) -> None:
    config, (best, worst) = swept
    assert (best.ended, best.point.settings, len(best.rows)) == ("whole", {"learner.lr": 1e-3}, STEPS)
    assert (worst.ended, worst.point.settings) == ("stopped", {"learner.lr": 2e-3})
    assert STEPS / 4 <= len(worst.rows) < STEPS
    folder = config.run.dir / "sweep"
    assert pq.read_table(folder / "results.parquet")["learner.lr"].to_pylist() == [1e-3, 2e-3]
    paths = RunPaths(folder / best.point.folder)
    assert (paths.policy("blade") / "model.safetensors").is_file()
    assert not RunPaths(folder / worst.point.folder).policy("blade").exists()
    assert paths.prior.is_symlink()
    assert not (folder / ".tune").exists()


def test_a_sweep_leaves_nothing_running(swept: tuple[Config, list[Outcome]]) -> None:
    deadline = time.monotonic() + 30
    while running() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert running() == []


PROCESSES = ("Engine", "RayTrainWorker", "StepPipeline", "_StoredEstimator", "_StoredScorer", "StepLog", "ImplicitFunc")
"""Names of the processes of a trial; Ray keeps some others for later use."""


def running() -> list[str]:
    """Placement groups that hold something, and the names of a trial's processes."""
    found = [name for name, group in placement_group_table().items() if group["state"] != "REMOVED"]
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [title for title in process.cmdline()[:1] if title.removeprefix("ray::").startswith(PROCESSES)]
    return found


def test_a_second_sweep_runs_nothing(swept: tuple[Config, list[Outcome]], monkeypatch: pytest.MonkeyPatch) -> None:
    config, first = swept

    def started(*_: Any) -> None:
        raise AssertionError("a trial was started")

    monkeypatch.setattr("blade_dist.stages.sweep.run_trials", started)
    console = Console(record=True, width=200)
    again = sweep_stage(open_run(config), [f"{OVER},2e-3"], None, "reward", True, console)
    assert [(o.point, o.ended, len(o.rows)) for o in again] == [(o.point, o.ended, len(o.rows)) for o in first]
    assert "best: --set learner.lr=0.001" in console.export_text()
    other = config.model_copy(update={"learner": config.learner.model_copy(update={"bon_n": 3})})
    with pytest.raises(UserError, match=r"the alignment with learner\.lr=0\.001 there was made with other settings"):
        sweep_stage(open_run(other), [f"{OVER},2e-3"], None, "reward", True, console)
