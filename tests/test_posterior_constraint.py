"""Floors and ceilings: multipliers by hand, in the estimator, and where they lead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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
    BOTH.check(parts)
    with pytest.raises(
        UserError, match=r"at_least ndcg@5: 0\.7 is out of reach: the best of 2 .* have 0\.6 on average"
    ):
        replace(BOTH, limits=np.array([0.7, 0.1])).check(parts)
    with pytest.raises(UserError, match=r"at_most mgu@5: 0\.05 is out of reach: .* have 0\.1 on average"):
        replace(BOTH, limits=np.array([0.5, 0.05])).check(parts)


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
