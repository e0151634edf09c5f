"""The estimator's promises: idempotent, restorable, equal to the pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blade_dist.batches import Rewards
from blade_dist.posterior.belief import believe
from blade_dist.posterior.beta import BetaSettings, Evidence, proxy_reward
from blade_dist.posterior.constraint import Constraints
from blade_dist.posterior.estimator import Estimator
from blade_dist.posterior.prior import Prior, PriorWriter
from blade_dist.posterior.strength import GRID, updated_likelihood
from tests.helpers.catalogs import PRIOR_STAMP

SETTINGS = BetaSettings(tau=0.3, strength=6)


def batch(prompts: list[int], seed: int = 0, digest: int = 1) -> Rewards:
    digests = np.arange(digest, digest + len(prompts), dtype=np.uint64)
    return Rewards(np.array(prompts), np.random.default_rng(seed).random((len(prompts), 4)), {}, digests)


def rows_of(prior: Prior, prompts: Sequence[int] | np.ndarray) -> np.ndarray:
    return prior.rewards[prior.where(np.asarray(prompts))]


def test_estimates_are_the_pure_function(prior: Prior) -> None:
    rewards = batch([9, 2])
    result = Estimator(prior, SETTINGS, "blade", "std", carry=0).estimate(1, 0, rewards)
    np.testing.assert_allclose(result.proxy, proxy_reward(rewards.total, rows_of(prior, rewards.prompt), SETTINGS))
    static = Estimator(prior, SETTINGS, "static", "std", carry=0).estimate(1, 0, rewards)
    expected = proxy_reward(rewards.total, rows_of(prior, rewards.prompt), replace(SETTINGS, tau=0))
    np.testing.assert_array_equal(static.proxy, expected)
    raw = Estimator(prior, SETTINGS, "grpo", "std", carry=0).estimate(1, 0, rewards)
    np.testing.assert_array_equal(raw.proxy, rewards.total)


def test_a_retry_counts_once(prior: Prior) -> None:
    once, twice = (Estimator(prior, SETTINGS, "blade", "std", carry=0.5) for _ in range(2))
    first = once.estimate(1, 0, batch([5], digest=7))
    for _ in range(2):
        again = twice.estimate(1, 0, batch([5], digest=7))
    np.testing.assert_array_equal(first.proxy, again.proxy)
    assert once.state(1) == twice.state(1)
    later = [e.estimate(1, 1, batch([5], seed=3, digest=8)).proxy for e in (once, twice)]
    np.testing.assert_array_equal(*later)


def test_new_lists_get_new_answers(prior: Prior) -> None:
    estimator = Estimator(prior, SETTINGS, "blade", "std", carry=0)
    old = estimator.estimate(1, 0, batch([5], seed=0, digest=7)).proxy
    new = estimator.estimate(2, 0, batch([5], seed=1, digest=8)).proxy
    assert not np.array_equal(old, new)
    np.testing.assert_allclose(new, proxy_reward(batch([5], seed=1).total, rows_of(prior, [5]), SETTINGS))


def test_carry_changes_the_next_visit(prior: Prior) -> None:
    with_carry, without = (Estimator(prior, SETTINGS, "blade", "std", carry=c) for c in (0.5, 0.0))
    for estimator in (with_carry, without):
        estimator.estimate(1, 0, batch([5], seed=0, digest=1))
    second = [e.estimate(1, 1, batch([5], seed=1, digest=2)).proxy for e in (with_carry, without)]
    assert not np.array_equal(*second)


def test_what_is_said_of_the_posterior_is_of_the_one_with_the_carried_evidence(prior: Prior) -> None:
    estimator = Estimator(prior, SETTINGS, "blade", "std", carry=0.5)
    earlier, now = batch([5, 2], seed=0, digest=1), batch([5, 2], seed=1, digest=3)
    estimator.estimate(1, 0, earlier)
    result = estimator.estimate(1, 1, now).report
    carried = Evidence(earlier.total, np.full((2, 4), 0.5))
    reference = rows_of(prior, now.prompt)
    for name, expected in believe(now.total, reference, SETTINGS, carried).items():
        np.testing.assert_allclose(result[f"posterior/{name}"], expected)


def test_restore_brings_the_saved_state_back(prior: Prior) -> None:
    estimator = Estimator(prior, SETTINGS, "blade", "std", carry=0.5)
    estimator.estimate(1, 0, batch([5, 2]))
    saved = estimator.state(1)
    expected = estimator.estimate(1, 1, batch([5, 2], seed=1, digest=3)).proxy
    other = Estimator(prior, SETTINGS, "blade", "std", carry=0.5)
    other.restore(saved, 2)
    np.testing.assert_array_equal(other.estimate(2, 1, batch([5, 2], seed=1, digest=3)).proxy, expected)
    other.restore(None, 3)
    fresh = Estimator(prior, SETTINGS, "blade", "std", carry=0.5)
    assert other.state(9) == fresh.state(9)


def test_the_state_before_a_step_leaves_later_evidence_out(prior: Prior) -> None:
    ahead, behind = (Estimator(prior, SETTINGS, "blade", "std", carry=0.5) for _ in range(2))
    for estimator in (ahead, behind):
        estimator.estimate(1, 0, batch([5, 2]))
    ahead.estimate(1, 1, batch([2, 9], seed=1, digest=3))
    ahead.estimate(1, 2, batch([9, 5], seed=2, digest=5))
    assert ahead.state(1) == behind.state(1)
    assert ahead.state(3) != behind.state(1)


def test_what_comes_too_late_does_not_count(prior: Prior) -> None:
    estimator = Estimator(prior, SETTINGS, "blade", "std", carry=0.5)
    estimator.estimate(2, 20, batch([5]))
    with pytest.raises(RuntimeError, match="a later one has begun"):
        estimator.estimate(1, 20, batch([5]))
    with pytest.raises(RuntimeError, match="estimates of step 4 were requested after step 20"):
        estimator.estimate(2, 4, batch([5]))
    estimator.restore(None, 3)
    with pytest.raises(RuntimeError, match="a later one has begun"):
        estimator.estimate(2, 20, batch([5]))
    with pytest.raises(RuntimeError, match="attempt 2 restores the estimator, but a later one has begun"):
        estimator.restore(None, 2)
    estimator.estimate(3, 20, batch([5]))


def test_a_chain_of_an_attempt_without_any_answer_comes_too_late(prior: Prior) -> None:
    """Attempt 2 died while its first lists were being written, so that its calls arrive after the restore for 3."""
    limits = Constraints.of({"diversity": 1.0}, {}, lr=2.0)
    known = replace(prior, parts={"diversity": np.ones(prior.rewards.shape)})
    rewards = replace(batch([5, 9]), parts={"diversity": np.zeros((2, 4))})
    estimator = Estimator(known, SETTINGS, "blade", "std", 0.5, auto=True, constraints=limits, renews=True)
    estimator.estimate(1, 0, rewards)
    saved = estimator.state(1)
    estimator.restore(saved, 2)
    estimator.restore(saved, 3)
    stale, fresh = np.random.default_rng(5).random((2, 2, 6))
    with pytest.raises(RuntimeError, match="attempt 2 requests estimates of step 1, but a later one has begun"):
        estimator.estimate(2, 1, rewards)
    with pytest.raises(RuntimeError, match="a later one has begun"):
        estimator.refresh(2, 1, np.array([5, 9]), stale)
    assert estimator.state(1) == saved
    expected = Estimator(known, SETTINGS, "blade", "std", 0.5, auto=True, constraints=limits, renews=True)
    expected.restore(saved, 1)
    for attempt, one in ((3, estimator), (1, expected)):
        one.refresh(attempt, 1, np.array([5, 9]), fresh)
    np.testing.assert_array_equal(estimator.estimate(3, 1, rewards).proxy, expected.estimate(1, 1, rewards).proxy)
    assert estimator.state(2) == expected.state(2)


def test_a_retry_with_some_new_lists_answers_both(prior: Prior) -> None:
    estimator = Estimator(prior, SETTINGS, "blade", "std", carry=0.5)
    first = estimator.estimate(1, 0, batch([5, 2], digest=1))
    mixed = replace(batch([5, 2], seed=4), digests=np.array([1, 7], dtype=np.uint64))
    second = estimator.estimate(1, 0, mixed)
    np.testing.assert_array_equal(first.proxy[0], second.proxy[0])
    assert not np.array_equal(first.proxy[1], second.proxy[1])
    np.testing.assert_array_equal(estimator.estimate(1, 0, mixed).proxy, second.proxy)


def auto(prior: Prior) -> Estimator:
    return Estimator(prior, SETTINGS, "blade", "std", carry=0.0, auto=True)


def test_auto_tau_is_restored_with_the_state_and_counts_a_retry_once(prior: Prior) -> None:
    one, other = auto(prior), auto(prior)
    for estimator in (one, other):
        for step in range(3):
            estimator.estimate(0, step, batch([5, 9, 2], seed=step))
    one.estimate(0, 2, batch([5, 9, 2], seed=2))  # again
    expected = other.estimate(0, 3, batch([2, 5], seed=3))
    saved = one.state(2)
    np.testing.assert_array_equal(one.estimate(0, 3, batch([2, 5], seed=3)).proxy, expected.proxy)
    assert one.state(2) == saved

    restored = auto(prior)
    restored.restore(saved, 1)
    restored.estimate(1, 2, batch([5, 9, 2], seed=2))
    again = restored.estimate(1, 3, batch([2, 5], seed=3))
    np.testing.assert_array_equal(again.proxy, expected.proxy)
    assert again.report["posterior/tau"].tolist() == expected.report["posterior/tau"].tolist()


def test_auto_tau_is_the_posterior_with_the_likeliest_strength(prior: Prior) -> None:
    rewards = batch([5, 9, 2])
    result = auto(prior).estimate(0, 0, rewards)
    settings = replace(SETTINGS, tau=result.report["posterior/tau"][0], strength=result.report["posterior/strength"][0])
    np.testing.assert_allclose(result.proxy, proxy_reward(rewards.total, rows_of(prior, rewards.prompt), settings))


def test_auto_tau_begins_at_the_configured_strength_where_all_prompts_are_cold(tmp_path: Path) -> None:
    writer = PriorWriter(tmp_path / "cold.arrow", PRIOR_STAMP)
    writer.add(np.arange(5), np.random.default_rng(0).random((5, 6)))
    writer.add(np.array([7, 8]), np.full((2, 6), np.nan))
    writer.finish()
    estimator = auto(Prior.load(tmp_path / "cold.arrow", PRIOR_STAMP))
    first = estimator.estimate(0, 0, batch([7, 8])).report
    assert first["posterior/strength"].tolist() == [6, 6]
    np.testing.assert_allclose(first["posterior/tau"], 4 / (6 + 1 + 4))
    second = estimator.estimate(0, 1, batch([7, 0], seed=1, digest=3)).report
    assert second["posterior/strength"][0] != 6


def test_a_cold_prompt_shares_the_pooled_prior(tmp_path: Path) -> None:
    writer = PriorWriter(tmp_path / "cold.arrow", PRIOR_STAMP)
    rng = np.random.default_rng(0)
    warm = rng.random((5, 6))
    writer.add(np.arange(5), warm)
    writer.add(np.array([7]), np.full((1, 6), np.nan))
    half = np.array([[0.4, 0.2, 0.6]])
    writer.add(np.array([8]), half)
    writer.finish()
    prior = Prior.load(tmp_path / "cold.arrow", PRIOR_STAMP)
    pooled = np.sort(np.concatenate([warm.ravel(), half[0, :3]]))
    np.testing.assert_array_equal(np.sort(prior.rewards.flat[prior.pool]), pooled)
    rewards = batch([7, 8, 0])
    result = Estimator(prior, SETTINGS, "static", "std", carry=0.0).estimate(0, 0, rewards)
    of_pool = (pooled <= rewards.total[..., None]).mean(axis=2)
    own = (half[0, :3] <= rewards.total[1][:, None]).mean(axis=1)
    shares = np.stack([of_pool[0], (own + of_pool[1]) / 2, (warm[0] <= rewards.total[2][:, None]).mean(axis=1)])
    np.testing.assert_allclose(result.proxy, np.log((6 * shares + 0.5) / 7))


def test_auto_tau_reads_the_lists_that_a_cold_prompt_has(tmp_path: Path) -> None:
    writer = PriorWriter(tmp_path / "cold.arrow", PRIOR_STAMP)
    rng = np.random.default_rng(0)
    writer.add(np.arange(5), rng.random((5, 6)))
    writer.add(np.array([7, 8]), rng.random((2, 2)), {})
    writer.finish()
    prior = Prior.load(tmp_path / "cold.arrow", PRIOR_STAMP)
    assert np.isnan(prior.rewards).sum(axis=1).tolist() == [0, 0, 0, 0, 0, 4, 4]
    rewards = batch([7, 8])
    reference, pooled = rows_of(prior, [7, 8]), np.sort(prior.rewards[~np.isnan(prior.rewards)])
    likelihood = updated_likelihood(np.zeros(len(GRID)), rewards.total, reference, SETTINGS, pooled)
    result = auto(prior).estimate(0, 0, rewards).report
    assert result["posterior/strength"][0] == GRID[likelihood.argmax()] != GRID[0]


def test_bond_judges_by_the_anchor_s_lists_and_has_the_better_one_imitated(prior: Prior) -> None:
    rewards = replace(batch([5, 9]), total=np.array([[0.1, 0.7, 0.3, 0.2], [0.5, 0.6, 0.9, 0.8]]))
    anchor = replace(rewards, total=np.array([[0.3, 0.6], [0.4, 0.2]]), digests=np.array([8, 9], dtype=np.uint64))
    estimator = Estimator(prior, SETTINGS, "bond", "std", carry=0.0)
    result = estimator.estimate(0, 0, rewards, anchor)
    worse = -np.log(16)
    assert result.proxy.tolist() == [[worse, 0, 0, worse], [0, 0, 0, 0]]
    np.testing.assert_allclose(result.advantage, [[worse / 2, -worse / 2, -worse / 2, worse / 2], [0] * 4], rtol=1e-6)
    assert result.informative.tolist() == [True, False]
    assert result.imitated is not None
    assert result.imitated.tolist() == [1, 0]
    again = estimator.estimate(0, 0, replace(rewards, digests=np.array([1, 7], dtype=np.uint64)), anchor)
    assert again.imitated is not None
    assert again.imitated.tolist() == [1, 0]


def test_bond_s_multipliers_weigh_the_anchor_s_lists_too(prior: Prior) -> None:
    limits = Constraints.of({"diversity": 1.0}, {}, lr=2.0)
    known = replace(prior, parts={"diversity": np.ones(prior.rewards.shape)})
    estimator = Estimator(known, SETTINGS, "bond", "std", carry=0.0, constraints=limits)
    rewards = replace(batch([5]), parts={"diversity": np.zeros((1, 4))})
    anchor = replace(batch([5]), total=np.array([[0.3, 0.6]]), parts={"diversity": np.array([[0.5, 0.0]])})
    first, second = (estimator.estimate(0, step, rewards, anchor) for step in range(2))
    assert first.imitated is not None
    assert second.imitated is not None
    assert (first.imitated.tolist(), second.imitated.tolist()) == ([1], [0])  # the multiplier is 2 by then


def renewing(prior: Prior, target: str = "blade") -> Estimator:
    return Estimator(prior, SETTINGS, target, "std", carry=0.0, renews=True)


def test_refreshed_rewards_take_the_reference_s_place(prior: Prior) -> None:
    estimator, rewards = renewing(prior), batch([5, 9, 2])
    before = estimator.estimate(1, 0, rewards)
    assert before.report["prior_refreshed"].tolist() == [0, 0, 0]
    anew = np.random.default_rng(5).random((2, 6))
    estimator.refresh(1, 1, np.array([9, 2]), anew)
    after = estimator.estimate(1, 1, rewards)
    assert after.report["prior_refreshed"].tolist() == [0, 1, 1]
    reference = np.concatenate([rows_of(prior, [5]), anew])
    np.testing.assert_array_equal(after.proxy, proxy_reward(rewards.total, reference, SETTINGS))
    estimator.refresh(1, 1, np.array([5]), anew[:1])  # a retry: the step's first call counts
    np.testing.assert_array_equal(estimator.estimate(1, 2, rewards).proxy, after.proxy)
    estimator.refresh(1, 3, np.array([9]), anew[1:])
    twice = estimator.estimate(1, 3, rewards)
    np.testing.assert_array_equal(twice.proxy[1], proxy_reward(rewards.total[1:2], anew[1:], SETTINGS)[0])
    np.testing.assert_array_equal(twice.proxy[2], after.proxy[2])


def test_refreshed_rewards_are_part_of_the_state_before_a_step(prior: Prior) -> None:
    estimator, rewards = renewing(prior, "static"), batch([5, 9, 2])
    first, second = np.random.default_rng(5).random((2, 2, 6))
    estimator.refresh(1, 1, np.array([9, 2]), first)
    expected = estimator.estimate(1, 1, rewards).proxy
    saved = estimator.state(2)
    estimator.refresh(1, 2, np.array([2, 5]), second)
    assert estimator.state(2) == saved
    assert estimator.state(3) != saved
    other = renewing(prior, "static")
    other.restore(saved, 2)
    np.testing.assert_array_equal(other.estimate(2, 2, rewards).proxy, expected)
    other.refresh(2, 3, np.array([2, 5]), second)  # a new attempt renews anew
    assert other.estimate(2, 3, rewards).report["prior_refreshed"].tolist() == [1, 1, 1]
    other.restore(None, 3)
    assert other.state(9) == renewing(prior, "static").state(9)
    with pytest.raises(RuntimeError, match="a later one has begun"):
        other.refresh(2, 4, np.array([2]), first[:1])


def test_a_refreshed_prompt_is_cold_no_more(tmp_path: Path) -> None:
    writer = PriorWriter(tmp_path / "cold.arrow", PRIOR_STAMP)
    writer.add(np.arange(5), np.random.default_rng(0).random((5, 6)))
    writer.add(np.array([7]), np.full((1, 6), np.nan))
    writer.finish()
    estimator, rewards = renewing(Prior.load(tmp_path / "cold.arrow", PRIOR_STAMP), "static"), batch([7])
    anew = np.random.default_rng(5).random((1, 6))
    estimator.refresh(1, 1, np.array([7]), anew)
    expected = proxy_reward(rewards.total, anew, replace(SETTINGS, tau=0))
    np.testing.assert_array_equal(estimator.estimate(1, 1, rewards).proxy, expected)


def test_fine_tuning_on_the_best_list_of_each_group(prior: Prior) -> None:
    totals = np.array([[0.1, 0.7, 0.3, 0.2], [0.5, 0.5, 0.1, 0.0], [0.5, 0.5, 0.5, 0.5]])
    rewards = replace(batch([5, 9, 2]), total=totals)
    result = Estimator(prior, SETTINGS, "best_of_n_sft", "std", carry=0.0).estimate(0, 0, rewards)
    assert result.advantage.tolist() == [[0, 4, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]
    assert result.informative.tolist() == [True, True, False]
    assert result.report == {}
