"""tau: auto finds the strength that generated the groups, and follows a policy that moves away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from blade_dist.posterior.beta import BetaSettings, posterior
from blade_dist.posterior.strength import GRID, MEMORY, level_counts, log_likelihood, updated_likelihood, with_likeliest


def test_counts_by_hand() -> None:
    counts = level_counts(np.array([[0.1, 0.5, 0.9]]), np.array([[0.2, 0.5]]))
    # at 0.2 no other reference is below, one of the group; at 0.5 one other reference, two of the group
    assert counts.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 9), st.integers(1, 7))
def test_counts_are_counts(seed: int, prompts: int, references: int, group: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, reference = rng.integers(0, 4, (prompts, group)) / 4, rng.integers(0, 4, (prompts, references)) / 4
    expected = np.zeros((references, group + 1), int)
    for row in range(prompts):
        for j, level in enumerate(reference[row]):
            others = np.delete(reference[row], j)
            expected[(others <= level).sum(), (rewards[row] <= level).sum()] += 1
    np.testing.assert_array_equal(level_counts(rewards, reference), expected)


def test_the_likelihood_is_scipys() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, (6, 9))
    result = log_likelihood(counts, 0.5)
    expected = [
        sum(
            counts[j, k] * betabinom.logpmf(k, 8, m * j / 5 + 0.5, m * (1 - j / 5) + 0.5)
            for j in range(6)
            for k in range(9)
        )
        for m in GRID
    ]
    np.testing.assert_allclose(result - result[0], np.array(expected) - expected[0], rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("strength", [2.0, 20.0, 200.0])
def test_it_finds_the_strength_of_a_world_that_has_one(strength: float) -> None:
    rng = np.random.default_rng(1)
    shares = np.arange(32) / 31
    seen = rng.beta(strength * shares + 0.5, strength * (1 - shares) + 0.5, (2000, 32))
    below = rng.binomial(16, seen)
    counts = np.stack([np.bincount(column, minlength=17) for column in below.T])
    best = GRID[log_likelihood(counts, 0.5).argmax()]
    assert best == pytest.approx(strength, rel=0.25)


SETTINGS = BetaSettings(tau=0.0, strength=32)


def test_a_policy_that_leaves_the_reference_lowers_the_strength() -> None:
    rng = np.random.default_rng(2)
    taus = []
    for shift in (0.0, 0.5, 2.0):
        likelihood = np.zeros(len(GRID))
        for _ in range(5):
            offset = rng.normal(size=(64, 1))  # prompts differ
            group, reference = offset + shift + rng.normal(size=(64, 16)), offset + rng.normal(size=(64, 32))
            likelihood = updated_likelihood(MEMORY * likelihood, group, reference, SETTINGS)
        result = with_likeliest(SETTINGS, likelihood, 16)
        assert result.tau == pytest.approx(16 / (result.strength + 1 + 16))
        taus.append(result.tau)
    assert taus[0] < taus[1] < taus[2]
    assert taus[0] < 0.5
    assert taus[2] > 0.8


def test_each_list_of_the_group_weighs_one() -> None:
    result = with_likeliest(SETTINGS, np.eye(len(GRID))[60], 16)
    a, b = posterior(np.array([[0.5]]), np.array([[0.25]]), result)
    assert a + b == pytest.approx(result.strength + 1 + 16)


def test_until_something_was_seen_the_strength_is_the_configured_one() -> None:
    result = with_likeliest(SETTINGS, np.zeros(len(GRID)), 16)
    assert (result.strength, result.tau) == (32, 16 / (32 + 1 + 16))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 6), st.integers(1, 4), st.integers(1, 9))
def test_the_pooled_distribution_stands_for_lists_that_are_lacking(
    seed: int, prompts: int, references: int, group: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    rewards, reference = rng.integers(0, 4, (prompts, group)) / 4, rng.integers(0, 4, (prompts, references)) / 4
    own = rng.integers(0, references + 1, prompts)
    reference[np.arange(references) >= own[:, None]] = np.nan
    pooled = np.sort(rng.integers(0, 4, size) / 4)
    expected = np.zeros((references, group + 1))
    for row in range(prompts):
        for j in range(own[row]):
            level = reference[row, j]
            others = (np.delete(reference[row], j) <= level).sum()
            others = others + (references - own[row]) * (pooled <= level).mean()
            for place in range(references):
                expected[place, (rewards[row] <= level).sum()] += max(0.0, 1 - abs(place - others))
    np.testing.assert_allclose(level_counts(rewards, reference, pooled), expected, atol=1e-9)


def test_prompts_with_some_lists_are_worth_less_where_prompts_differ() -> None:
    """The pooled distribution says little of a prompt that is unlike the others, so that a lower m is likelier."""
    rng = np.random.default_rng(4)
    strengths = []
    for spread in (0.0, 2.0):
        offset = spread * rng.normal(size=(400, 1))
        group, reference = offset + rng.normal(size=(400, 8)), offset + rng.normal(size=(400, 16))
        pooled = np.sort(reference.ravel())
        reference[:, 4:] = np.nan
        likelihood = updated_likelihood(np.zeros(len(GRID)), group, reference, SETTINGS, pooled)
        strengths.append(with_likeliest(SETTINGS, likelihood, 8).strength)
    assert strengths[1] < 10 < strengths[0]


def test_prompts_without_lists_say_nothing() -> None:
    rng = np.random.default_rng(0)
    group, reference = rng.normal(size=(8, 4)), rng.normal(size=(8, 6))
    cold = np.concatenate([reference, np.full((3, 6), np.nan)])
    more = np.concatenate([group, rng.normal(size=(3, 4))])
    nothing = np.zeros(len(GRID))
    expected = updated_likelihood(nothing, group, reference, SETTINGS)
    np.testing.assert_array_equal(updated_likelihood(nothing, more, cold, SETTINGS), expected)
