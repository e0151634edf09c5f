"""Floors and ceilings: multipliers by hand, in the estimator, and where they lead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import Rewards
from blade_dist.errors import UserError
from blade_dist.posterior.beta import BetaSettings, proxy_reward
from blade_dist.posterior.constraint import Constraints
from blade_dist.posterior.estimator import Estimator
from blade_dist.posterior.prior import Prior, PriorWriter

BOTH = Constraints.of({"ndcg@5": 0.5}, {"mgu@5": 0.1}, lr=2.0)
SETTINGS = BetaSettings(tau=0.3, strength=6)
STAMP = {"reference": "r"}


def test_a_multiplier_rises_while_its_limit_is_missed_and_is_never_negative() -> None:
    missed = {"ndcg@5": np.array([[0.2, 0.4]]), "mgu@5": np.array([[0.3, 0.3]])}
    kept = {"ndcg@5": np.array([[0.9]]), "mgu@5": np.array([[0.0]])}
    first = BOTH.updated(BOTH.start(), missed)
    np.testing.assert_allclose(first, [2 * 0.2, 2 * 0.2])
    np.testing.assert_allclose(BOTH.updated(first, kept), [0, 0.2])
    np.testing.assert_allclose(BOTH.added(first, missed), 0.4 * missed["ndcg@5"] - 0.4 * missed["mgu@5"])


def test_without_constraints_nothing_is_added() -> None:
    assert Constraints.of({}, {}, 1.0).added(np.zeros(0), {}) == 0.0


def test_a_limit_out_of_reach_is_refused_with_what_is_reachable() -> None:
    parts = {"ndcg@5": np.array([[0.1, 0.5], [0.2, 0.7]]), "mgu@5": np.array([[0.3, 0.1], [0.1, 0.4]])}
    assert BOTH.check(parts, {"ndcg@5"}) == []
    floor = (
        r"^reward\.at_least\.ndcg@5: 0\.65 is out of reach: the best of 2 reference lists of every prompt have 0\.6 on "
        r"average, and only an oracle .* easier than that \(the reference's own mean is 0\.375\)$"
    )
    with pytest.raises(UserError, match=floor):
        replace(BOTH, limits=np.array([0.65, 0.1])).check(parts, {"ndcg@5"})
    ceiling = r"^reward\.at_most\.mgu@5: 0\.05 is out of reach: the best of all 4 reference lists has 0\.1; set"
    with pytest.raises(UserError, match=ceiling):
        replace(BOTH, limits=np.array([0.5, 0.05])).check(parts, {"ndcg@5"})


def test_lists_better_than_a_prompt_s_own_are_in_doubt_but_not_refused() -> None:
    parts = {"ild@5": np.array([[0.1, 0.5], [0.2, 0.7], [np.nan, np.nan]])}
    (doubt,) = Constraints.of({"ild@5": 0.65}, {}, 1.0).check(parts, set())
    assert doubt == (
        "reward.at_least.ild@5: 0.65 may be out of reach: the best of 2 reference lists of every prompt have 0.6 on "
        "average (the reference's own mean is 0.375)"
    )


VALUES = st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=6).map(np.array)


@given(VALUES, st.floats(-0.5, 1.5), st.booleans(), st.booleans())
def test_what_a_list_of_any_prompt_reaches_is_refused_to_oracles_only(
    values: np.ndarray, limit: float, floor: bool, oracle: bool
) -> None:
    limits = Constraints.of({"c": limit} if floor else {}, {} if floor else {"c": limit}, 1.0)
    kept = values >= limit if floor else values <= limit
    try:
        doubts = limits.check({"c": values}, {"c"} if oracle else set())
    except UserError:
        assert not kept.all(axis=0).any()  # no choice that is the same for all prompts keeps the limit
        assert oracle or not kept.any()
    else:
        assert kept.any()
        assert not (doubts and (oracle or kept.any(axis=1).all()))


def test_a_metric_with_both_limits_has_two_multipliers(prior: Prior) -> None:
    limits = Constraints.of({"c": 0.9}, {"d": 0.5, "c": 0.95}, lr=1.0)
    assert limits.settings == ("reward.at_least.c", "reward.at_most.d", "reward.at_most.c")
    assert limits.columns == ("multiplier/at_least/c", "multiplier/d", "multiplier/at_most/c")
    both = Constraints.of({"c": 0.9}, {"c": 0.95}, lr=1.0)
    estimator = Estimator(prior, SETTINGS, "blade", "std", 0.0, constraints=both)
    estimator.estimate(0, 0, step(0))
    report = estimator.estimate(0, 1, step(1)).report
    missed = 0.9 - step(0).parts["c"].mean()
    np.testing.assert_allclose(report["multiplier/at_least/c"], missed)
    np.testing.assert_array_equal(report["multiplier/at_most/c"], 0)


def test_an_estimator_takes_limits_as_they_are(prior: Prior) -> None:
    out_of_reach = Constraints.of({"c": 2.0}, {}, lr=1.0)
    assert Estimator(prior, SETTINGS, "blade", "std", 0.0, constraints=out_of_reach).estimate(0, 0, step(0))


def test_ascent_on_the_dual_finds_the_constrained_best() -> None:
    """Of three arms (reward, metric) the best mix that keeps the floor: half of the first, half of the second."""
    reward, metric = np.array([1.0, 0.6, 0.0]), np.array([0.0, 1.0, 0.5])
    constraints = Constraints.of({"c": 0.5}, {}, lr=0.05)
    multipliers, shares = constraints.start(), []
    for _ in range(2000):
        chosen = int((reward + constraints.added(multipliers, {"c": metric})).argmax())
        shares.append(np.eye(3)[chosen])
        multipliers = constraints.updated(multipliers, {"c": metric[[chosen]]})
    np.testing.assert_allclose(np.mean(shares[200:], axis=0), [0.5, 0.5, 0], atol=0.02)
    assert multipliers[0] == pytest.approx(0.4, abs=0.05)  # what the floor costs: 0.4 reward per 1 of the metric


@pytest.fixture
def prior(tmp_path: Path) -> Prior:
    rng = np.random.default_rng(0)
    writer = PriorWriter(tmp_path / "prior.arrow", STAMP)
    writer.add(np.array([3, 1]), rng.random((2, 6)), {"c": rng.random((2, 6))})
    writer.add(np.array([2]), np.full((1, 6), np.nan), {"c": np.full((1, 6), np.nan)})
    writer.finish()
    return Prior.load(tmp_path / "prior.arrow", STAMP)


def step(seed: int) -> Rewards:
    rng = np.random.default_rng(seed)
    return Rewards(np.array([1, 3]), rng.random((2, 4)), {"c": rng.random((2, 4))}, np.arange(2, dtype=np.uint64))


def test_parts_stay_with_their_lists(prior: Prior, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rewards, parts = rng.random((2, 6)), rng.random((2, 6))
    order = rewards[1].argsort()
    np.testing.assert_array_equal(prior.rewards[0], rewards[1][order])
    np.testing.assert_array_equal(prior.parts["c"][0], parts[1][order])


def test_multipliers_are_part_of_every_reward_and_of_the_state(prior: Prior) -> None:
    constraints = Constraints.of({"c": 0.6}, {}, lr=3.0)

    def make() -> Estimator:
        return Estimator(prior, SETTINGS, "blade", "std", 0.0, constraints=constraints)

    estimator = make()
    first = estimator.estimate(0, 0, step(0))
    assert first.report["multiplier/c"].tolist() == [0, 0]
    estimator.estimate(0, 0, step(0))  # a retry: the multiplier moves once
    second = estimator.estimate(0, 1, step(1))
    weight = 3 * (0.6 - step(0).parts["c"].mean())
    assert weight > 0
    np.testing.assert_allclose(second.report["multiplier/c"], weight)
    reference = prior.rewards[[0, 2]] + weight * prior.parts["c"][[0, 2]]
    expected = proxy_reward(step(1).total + weight * step(1).parts["c"], reference, SETTINGS)
    np.testing.assert_allclose(second.proxy, expected)

    restored = make()
    restored.restore(estimator.state(1), 1)
    np.testing.assert_array_equal(restored.estimate(1, 1, step(1)).proxy, second.proxy)
