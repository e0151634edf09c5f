"""What came of a sweep's points: their worth, their order, the table, and what can't be compared."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from blade_dist.settings.load import load_config
from blade_dist.sweep.comparable import obstacle
from blade_dist.sweep.results import (
    Criterion,
    Outcome,
    ranked,
    render,
    value_of,
    value_so_far,
    write_results,
)
from blade_dist.sweep.space import points
from blade_dist.tracking.means import mean_of_last

BASE = load_config(None, ["reward.weights={ndcg@5: 1.0}", "run.seed=7"])


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


BOOSTED, AGAINST = "reward.weights={boost/margin@5: 1.0}", "reward.weights={mgu/d@5: -1.0}"
PARTS, EVALUATE = "choose by the parts", "compare them with `blade-dist evaluate`"


@pytest.mark.parametrize(
    ("fixed", "over", "by", "named", "instead"),
    [
        ([], "reward.weights.ild@5=0,0.3", "reward", "reward.weights", PARTS),
        ([], "reward.weights.ild@5=0,0.3", "validation", "reward.weights", PARTS),
        ([], "reward.normalise=false,true", "reward", "reward.normalise", PARTS),
        ([BOOSTED], "reward.boosts={margin: {a: 1}},{margin: {a: 2}}", "reward", "reward.boosts", PARTS),
        ([AGAINST], "reward.distributions={d: {a: 1}},{d: {b: 1}}", "reward", "reward.distributions", PARTS),
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
