"""A sweep: its points, its table, what is refused, and two alignments beside each other on the real stack."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.util import placement_group_table
from rich.console import Console

from blade_dist.artifacts import RunPaths, write_json
from blade_dist.config import load_config
from blade_dist.errors import UserError
from blade_dist.placement import Demand, Node, place_copies
from blade_dist.settings import Config
from blade_dist.stages.sweep import sweep_stage
from blade_dist.stages.trial import Halving, Trial, TrialRows, first_line
from blade_dist.sweep.comparable import obstacle
from blade_dist.sweep.results import (
    Criterion,
    Outcome,
    mean_of_last,
    ranked,
    render,
    value_of,
    value_so_far,
    write_results,
)
from blade_dist.sweep.space import points
from tests.conftest import TRAIN_PROMPTS, with_settings
from tests.program import Program

BASE = load_config(None, ["reward.weights={ndcg@5: 1.0}", "run.seed=7"])


def test_points_are_the_product_of_the_values() -> None:
    found = points(BASE, ["posterior.tau=0.05,auto", "learner.lr=1e-3,2e-3", "reward.weights.ild@5=0,0.3"])
    assert len(found) == 8
    first, last = found[0], found[-1]
    assert first.settings == {"posterior.tau": 0.05, "learner.lr": 1e-3, "reward.weights.ild@5": 0}
    assert last.settings == {"posterior.tau": "auto", "learner.lr": 2e-3, "reward.weights.ild@5": 0.3}
    assert last.config.reward.weights == {"ndcg@5": 1.0, "ild@5": 0.3}
    assert (last.config.posterior.tau, last.config.learner.lr) == ("auto", 2e-3)
    assert BASE.reward.weights == {"ndcg@5": 1.0}


def test_the_settings_of_j_bond_can_be_swept() -> None:
    found = points(BASE, ["target=bond", "bond.eta=0.01,0.05"])
    assert [(point.config.target, point.config.bond.eta) for point in found] == [("bond", 0.01), ("bond", 0.05)]


def test_every_combination_that_is_drawn_has_all_seeds() -> None:
    over = ["run.seed=0,1", "posterior.tau=0,0.1,0.2", "learner.bon_n=2,4"]
    drawn = points(BASE, over, 3)
    assert len(drawn) == 6
    assert [point.config.run.seed for point in drawn] == [0, 1] * 3
    labels = [point.seedless.label for point in drawn]
    assert labels[::2] == labels[1::2]
    assert len(set(labels)) == 3
    assert "seed" not in drawn[0].seedless.arguments
    with pytest.raises(UserError, match=r"--samples 7: the grid has 6 points, run\.seed aside; ask for"):
        points(BASE, over, 7)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 100))
def test_more_samples_hold_the_fewer_ones(few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))
    config = BASE.model_copy(update={"run": BASE.run.model_copy(update={"seed": seed})})
    over = ["posterior.tau=0,0.1,0.2", "learner.bon_n=2,4,8,16"]
    drawn = [[point.folder for point in points(config, over, samples)] for samples in (few, more)]
    assert [len(set(names)) for names in drawn] == [few, more]
    assert set(drawn[0]) <= set(drawn[1])


def test_a_folder_s_name_does_not_depend_on_the_order() -> None:
    over = ["posterior.tau=0.1", "learner.lr=1e-5"]
    (one,), (other,) = points(BASE, over), points(BASE, over[::-1])
    assert one.folder == other.folder == "learner.lr=1.0e-05,posterior.tau=0.1"
    assert one.label == "posterior.tau=0.1, learner.lr=1.0e-05"


def test_folders_of_names_that_are_no_file_names_differ() -> None:
    over = ["reward.distributions={reach: {head: 0.6, tail: 0.4}},{reach: {head: 0.5, tail: 0.5}}"]
    names = [point.folder for point in points(BASE, [*over, "reward.weights.mgu/reach@5=-0.3,-0.4"])]
    assert len(set(names)) == 4
    assert all("/" not in name and len(name) < 200 for name in names)


@pytest.mark.parametrize(
    "over",
    [
        "posterior.tau=0.3",
        "posterior.tau=auto",
        "learner.lr=1e-05",
        "learner.lora={rank: 8}",
        "learner.lora.rank=8",
        "reward.weights.my.module:margin=0.5",
        "reward.weights={hr@5: 2, ild@5: 1}",
        "train.patience=null",
        "learner.betas=[0.9, 0.95]",
    ],
)
def test_a_point_s_arguments_give_its_settings(over: str, tmp_path: Path) -> None:
    (point,) = points(BASE, [over])
    _, given = shlex.split(point.arguments)
    fixed = ["reward.weights={ndcg@5: 1.0}", "run.seed=7"]
    assert load_config(None, [*fixed, given]) == point.config


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["posterior.tau"], "--over posterior.tau: write section.key=value,value"),
        (["posterior.tau="], "--over posterior.tau=: write section.key=value,value"),
        (["posterior.tau=[,"], "are not YAML values"),
        (["posterior.tua=0.1"], "posterior.tua: unknown setting; did you mean posterior.tau?"),
        (["lerner.lr=0.1"], "lerner: unknown setting; did you mean learner?"),
        (["posterior.tau=0.1,1.5"], "--over posterior.tau=1.5: posterior.tau: write a number that is at least 0"),
        (["reward.weights.ild@5=0.1,x"], "reward.weights.ild@5: Input should be a valid number"),
        (["posterior.tau=0.1", "posterior.tau=0.2"], "--over posterior.tau: given twice"),
        (["learner.lr=1e-3,0.001"], "--over: learner.lr=0.001 comes twice"),
        (["rollout.engines=1,2"], "--over rollout.engines: is the same for all alignments of one sweep"),
        (["posterior={tau: 0.1}"], "--over posterior: is a section; name a setting of it"),
        *(
            ([f"{name}=1"], f"--over {name}: is the same for all alignments of one sweep; what may be swept: target, ")
            for name in ("data.k_core", "codec.levels", "model.dtype", "sft.lr", "run.dir", "lists.k", "ray.address")
        ),
    ],
)
def test_what_is_refused_is_named(over: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        points(BASE, over)
    assert message in str(error.value)


def test_more_samples_than_points_are_refused() -> None:
    with pytest.raises(UserError, match="--samples 3: the grid has 2 points"):
        points(BASE, ["posterior.tau=0.1,0.2"], 3)


def outcome(tau: float, ended: Any, rewards: list[float], **more: list[float]) -> Outcome:
    (point,) = points(BASE, [f"posterior.tau={tau}"])
    rows = [{"step": at, "reward": value, "reward/ndcg@5": value / 2} for at, value in enumerate(rewards)]
    for name, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return Outcome(point, ended, rows, "it broke" if ended == "failed" else None)


def test_a_point_is_worth_its_late_reward_or_its_best_validation() -> None:
    rows = [{"reward": float(at), "validation": value} for at, value in enumerate([None, 3.0, None, 2.0] * 5)]
    assert value_of("reward", rows) == pytest.approx((18 + 19) / 2)
    assert value_of("validation", rows) == 3
    assert value_of("validation", rows[:1]) is None
    assert value_of("reward", []) is value_so_far("reward", []) is None
    assert value_so_far("reward", rows) == pytest.approx(14.5)
    assert value_so_far("validation", rows) == 3
    assert mean_of_last([4.0]) == 4


def test_the_table_has_the_best_first_and_failures_last(tmp_path: Path) -> None:
    nan = float("nan")
    found = [
        outcome(0.1, "failed", [9.0]),
        outcome(0.2, "stopped", [0.8]),
        outcome(0.3, "whole", [0.0, 0.7]),
        outcome(0.4, "whole", [nan, nan]),
    ]
    groups = ranked(found, "reward")
    order = [entry for group in groups for entry in group]
    assert [entry.point.settings["posterior.tau"] for entry in order] == [0.3, 0.4, 0.2, 0.1]
    write_results(order, "reward", tmp_path)
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["posterior.tau"] for row in table] == [0.3, 0.4, 0.2, 0.1]
    assert [row["error"] for row in table] == [None, None, None, "it broke"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["points"][0]["settings"] == {"posterior.tau": 0.3}
    assert (written["points"][0]["steps"], written["points"][0]["reward"]) == (2, 0.7)
    console = Console(record=True, width=200)
    console.print(render(groups, "reward", parts=True))
    lines = console.export_text().splitlines()
    assert any("0.3 " in line and "0.7000" in line and "0.3500" in line and "whole" in line for line in lines)
    assert any("stopped early" in line for line in lines)
    assert "it broke" in lines[-2]


def seeded(tau: float, seed: int, rewards: list[float], ended: Any = "whole") -> Outcome:
    (point,) = points(BASE, [f"posterior.tau={tau}", f"run.seed={seed}"])
    return Outcome(point, ended, [{"step": at, "reward": value} for at, value in enumerate(rewards)], "it broke")


def test_points_are_ranked_by_their_mean_over_the_seeds() -> None:
    lucky = [seeded(0.1, 0, [0.9]), seeded(0.1, 1, [0.1]), seeded(0.1, 2, [0.2, 0.2])]
    steady = [seeded(0.2, seed, [0.5]) for seed in range(3)]
    broken = [seeded(0.3, 0, [0.8]), seeded(0.3, 1, [0.7]), seeded(0.3, 2, [0.0], "failed")]
    groups = ranked([*lucky, *broken, *steady], "reward")
    assert groups == [steady, lucky, broken]
    console = Console(record=True, width=200)
    console.print(render(groups, "reward", parts=False))
    shown = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in console.export_text().splitlines()]
    assert [row for row in shown if row] == [
        ["0.2", "3", "1", "0.5000", "whole"],
        ["0.1", "3", "1 to 2", "0.4000 (0.1000 to 0.9000)", "whole"],
        ["0.3", "2 of 3", "1", "0.7500 (0.7000 to 0.8000)", "whole, it broke"],
    ]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.floats(0, 1)), min_size=1, max_size=12))
def test_groups_hold_every_outcome_once_and_fall_in_their_means(given: list[tuple[float, float]]) -> None:
    found = [seeded(tau, seed, [reward]) for seed, (tau, reward) in enumerate(given)]
    groups = ranked(found, "reward")
    assert sorted(outcome.point.folder for group in groups for outcome in group) == sorted(
        outcome.point.folder for outcome in found
    )
    assert all(len({outcome.point.config.posterior.tau for outcome in group}) == 1 for group in groups)
    means = [sum(outcome.rows[0]["reward"] for outcome in group) / len(group) for group in groups]
    assert all(before >= after - 1e-12 for before, after in pairwise(means))


def test_brackets_in_the_table_are_shown_as_they_are() -> None:
    modules = Outcome(*points(BASE, ["learner.lora.modules=[q_proj]"]), "failed", [], "no [/INST] there")
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(render([[modules]], "reward", parts=False))
    shown = console.export_text()
    assert "[q_proj]" in shown
    assert "no [/INST] there" in shown


PARTS, EVALUATE = "choose by the parts", "compare them with `blade-dist evaluate`"


@pytest.mark.parametrize(
    ("fixed", "over", "by", "named", "instead"),
    [
        ([], "reward.weights.ild@5=0,0.3", "reward", "reward.weights", PARTS),
        ([], "reward.weights.ild@5=0,0.3", "validation", "reward.weights", PARTS),
        ([], "reward.normalise=false,true", "reward", "reward.normalise", PARTS),
        ([], "reward.boosts={margin: {a: 1}},{margin: {a: 2}}", "reward", "reward.boosts", PARTS),
        ([], "reward.distributions={d: {a: 1}},{d: {b: 1}}", "reward", "reward.distributions", PARTS),
        ([], "reward.at_least={ndcg@5: 0.1},{ndcg@5: 0.2}", "reward", "reward.at_least", PARTS),
        ([], "reward.at_most={mgu@5: 0.1}", "reward", "reward.at_most", PARTS),
        (["reward.at_least={ndcg@5: 0.1}"], "reward.multiplier_lr=0.1,0.5", "reward", "reward.at_least", PARTS),
        (["reward.at_least={ndcg@5: 0.1}"], "learner.lr=1e-3,2e-3", "reward", "reward.at_least", PARTS),
        (["reward.normalise=true"], "prior.size=16,32", "reward", "prior.size", PARTS),
        (["reward.normalise=true"], "prior.size=16,32", "validation", "prior.size", PARTS),
        (["reward.normalise=true"], "rollout.temperature=0.7,1", "validation", "rollout.temperature", PARTS),
        ([], "rollout.temperature=0.7,1", "reward", "rollout.temperature", EVALUATE),
        ([], "train.prompts=100,null", "reward", "train.prompts", EVALUATE),
        ([], "train.validation_prompts=100,200", "validation", "train.validation_prompts", EVALUATE),
    ],
)
def test_points_whose_rewards_are_no_measure_of_each_other_are_not_compared(
    fixed: list[str], over: str, by: Criterion, named: str, instead: str
) -> None:
    found = obstacle(points(load_config(None, fixed), [over]), by)
    assert found is not None
    assert named in found.why
    assert found.instead == instead


@pytest.mark.parametrize(
    ("fixed", "over", "by"),
    [
        ([], "learner.lr=1e-3,2e-3", "reward"),
        ([], "run.seed=0,1", "reward"),
        ([], "prior.size=16,32", "reward"),
        ([], "reward.multiplier_lr=0.1,0.5", "reward"),
        ([], "rollout.temperature=0.7,1", "validation"),
        ([], "train.validation_prompts=100,200", "reward"),
        (["reward.normalise=true"], "posterior.tau=0.1,0.3", "validation"),
    ],
)
def test_other_points_are_compared(fixed: list[str], over: str, by: Criterion) -> None:
    assert obstacle(points(load_config(None, fixed), [over]), by) is None


def test_settings_of_mixed_kinds_are_written_as_text(tmp_path: Path) -> None:
    found = [Outcome(point, "failed", []) for point in points(BASE, ["posterior.tau=0.1,auto"])]
    write_results(found, "reward", tmp_path)
    assert pq.read_table(tmp_path / "results.parquet")["posterior.tau"].to_pylist() == ["0.1", "auto"]


def trial_of(config: Config, folder: Path, by: Criterion = "reward") -> Trial:
    run = config.run.model_copy(update={"dir": folder})
    return Trial(config.model_copy(update={"run": run}), by, shares_prior=True)


class Seen:
    """What the scheduler reads of one of Tune's trials."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.config = name, {"name": name}


def test_a_bad_trial_is_asked_to_stop_also_by_one_of_an_earlier_sweep(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("by", "asked"), [("reward", [True]), ("validation", [])])
def test_a_note_stops_a_trial_of_its_own_criterion_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Criterion, asked: list[bool]
) -> None:
    monkeypatch.setattr("blade_dist.stages.trial.tune.report", lambda _: None)
    trial = trial_of(BASE, tmp_path, by)
    write_json(trial.stop_note, {"by": "reward", "step": 2, "value": 0.4})
    stopped: list[bool] = []
    with TrialRows(trial, lambda: stopped.append(True)) as rows:
        rows.update(2, {"reward": 0.4})
    assert stopped == asked


class Swept:
    """Sweeps whose alignments take no time: every trial that is run has what ``reward`` says of its settings."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *fixed: str) -> None:
        self.config = load_config(None, [f"run.dir={folder}", "train.steps=2", *fixed])
        self.halved: list[bool] = []
        self.ran: list[str] = []
        for name in ("check_alignment", "prior_stamp", "align_stamp"):
            monkeypatch.setattr(f"blade_dist.stages.sweep.{name}", lambda *_: "stamp")
        monkeypatch.setattr("blade_dist.stages.sweep._run", self._run)

    def __call__(self, *over: str, by: Criterion = "reward") -> str:
        """What is said."""
        console = Console(record=True, width=300, file=io.StringIO())
        self.ran, self.halved = [], []
        sweep_stage(self.config, over, None, by, True, console)
        return console.export_text()

    def _run(self, _: Config, trials: dict[str, Trial], todo: list[str], scheduler: object, __: Console) -> None:
        self.ran, self.halved = list(todo), [scheduler is not None]
        for name in todo:
            config = trials[name].config
            stage = RunPaths(config.run.dir).target(config.target)
            write_json(stage / "stage.json", {"stamp": "stamp", "done": True})
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


def test_the_first_thing_that_went_wrong_is_told() -> None:
    outer = RuntimeError("the trial failed\nTraceback ...")
    assert first_line(outer) == "the trial failed"
    outer.__cause__ = UserError("posterior.tau: no\nmore")
    assert first_line(outer) == "posterior.tau: no"
    assert first_line(KeyError()) == "KeyError"


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
    (first,) = sweep_stage(config, [OVER], None, "reward", True, Console(quiet=True))
    metrics = RunPaths(config.run.dir / "sweep" / first.point.folder).target("blade") / "metrics.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "reward": row["reward"] + 1} for row in first.rows]), metrics)
    return config, sweep_stage(config, [f"{OVER},2e-3"], None, "reward", True, Console(quiet=True))


def test_a_sweep_ends_with_a_table(swept: tuple[Config, list[Outcome]]) -> None:
    config, (best, worst) = swept
    assert (best.ended, best.point.settings, len(best.rows)) == ("whole", {"learner.lr": 1e-3}, STEPS)
    assert (worst.ended, worst.point.settings) == ("stopped", {"learner.lr": 2e-3})
    assert STEPS / 4 <= len(worst.rows) < STEPS
    folder = config.run.dir / "sweep"
    assert pq.read_table(folder / "results.parquet")["learner.lr"].to_pylist() == [1e-3, 2e-3]
    own = RunPaths(folder / best.point.folder)
    assert (own.policy("blade") / "model.safetensors").is_file()
    assert not RunPaths(folder / worst.point.folder).policy("blade").exists()
    assert own.prior.is_symlink()
    assert not (folder / ".tune").exists()


def test_a_sweep_leaves_nothing_running(swept: tuple[Config, list[Outcome]]) -> None:
    deadline = time.monotonic() + 30
    while running() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert running() == []


OWN = ("Engine", "RayTrainWorker", "StepPipeline", "_StoredEstimator", "_StoredScorer", "StepLog", "ImplicitFunc")
"""How the processes of a trial are called; Ray keeps some of its own for later use."""


def running() -> list[str]:
    """Placement groups that hold something, and the names of a trial's processes."""
    found = [name for name, group in placement_group_table().items() if group["state"] != "REMOVED"]
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [title for title in process.cmdline()[:1] if title.removeprefix("ray::").startswith(OWN)]
    return found


def test_a_second_sweep_runs_nothing(swept: tuple[Config, list[Outcome]], monkeypatch: pytest.MonkeyPatch) -> None:
    config, first = swept

    def started(*_: Any) -> None:
        raise AssertionError("a trial was started")

    monkeypatch.setattr("blade_dist.stages.sweep.run_trials", started)
    console = Console(record=True, width=200)
    again = sweep_stage(config, [f"{OVER},2e-3"], None, "reward", True, console)
    assert [(o.point, o.ended, len(o.rows)) for o in again] == [(o.point, o.ended, len(o.rows)) for o in first]
    assert "best: --set learner.lr=0.001" in console.export_text()
    other = config.model_copy(update={"learner": config.learner.model_copy(update={"bon_n": 3})})
    with pytest.raises(UserError, match=r"the alignment with learner\.lr=0\.001 there was made with other settings"):
        sweep_stage(other, [f"{OVER},2e-3"], None, "reward", True, console)
