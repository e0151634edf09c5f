"""Calibration, bands and drift of the belief, against scipy and worlds where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from blade_dist.posterior.belief import BINS, believe, leave_one_out, miscalibration, pit_histogram
from blade_dist.posterior.beta import BetaSettings, Evidence, posterior, share

SETTINGS = BetaSettings(tau=0.3, strength=32)


def world(shift: float = 0.0, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    offset = rng.normal(size=(400, 1))
    rewards, reference = offset + shift + rng.normal(size=(400, 16)), offset + rng.normal(size=(400, 32))
    if levels is None:
        return rewards, reference
    return tuple(np.round(np.clip(values, -2, 2) * levels / 4) for values in (rewards, reference))


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_leave_one_out_is_the_share_of_the_others(seed: int, group: int) -> None:
    rewards = np.random.default_rng(seed).integers(0, 4, (3, group)).astype(float)
    for strictly, compare in ((False, np.less_equal), (True, np.less)):
        result = leave_one_out(share(rewards, rewards, strictly=strictly), group, strictly=strictly)
        for row in range(3):
            for i in range(group):
                expected = compare(np.delete(rewards[row], i), rewards[row, i]).mean()
                assert result[row, i] == pytest.approx(expected)


@pytest.mark.parametrize("levels", [None, 4])
def test_fresh_lists_of_the_reference_are_calibrated(levels: int | None) -> None:
    histogram = believe(*world(levels=levels), SETTINGS)["pit"].mean(axis=0)
    assert histogram.sum() == pytest.approx(1)
    assert miscalibration(histogram) < 0.05


def test_a_policy_that_has_moved_is_not_calibrated_under_the_static_prior_alone() -> None:
    static, mixed, mostly = (
        miscalibration(believe(*world(shift=1.5), BetaSettings(tau=tau, strength=32))["pit"].mean(axis=0))
        for tau in (0.0, 0.3, 0.8)
    )
    assert static > mixed > mostly
    assert static > 0.3
    assert mostly < 0.15


def test_drift_grows_with_the_distance_from_the_reference() -> None:
    result = [float(believe(*world(shift=shift), SETTINGS)["drift"].mean()) for shift in (0.0, 1.0, 3.0)]
    assert result == sorted(result)
    assert result[2] > 2 * result[0]


def test_the_band_is_scipys() -> None:
    rewards, reference = (values[:3] for values in world())
    others = leave_one_out(share(rewards, rewards), 16)
    a, b = posterior(share(rewards, reference), others, SETTINGS)
    low, high = beta.interval(0.95, a, b)
    np.testing.assert_allclose(believe(rewards, reference, SETTINGS)["band"], (high - low).mean(axis=1), rtol=1e-6)

    result = believe(rewards, reference, SETTINGS)
    np.testing.assert_allclose(result["band_low"], low.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(result["band_high"], high.mean(axis=1), rtol=1e-6)


def evidence(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Evidence:
    return Evidence(shift + rng.normal(size=(rows, 5)), 0.5 ** np.arange(1, 6) * np.ones((rows, 1)))


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from([None, 2]))
def test_carried_evidence_counts_by_its_weight_beside_the_others(seed: int, group: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    rewards, reference, carried = rng.normal(size=(2, group)), rng.normal(size=(2, 7)), evidence(rng, 2)
    if levels is not None:
        rewards, reference = np.round(levels * rewards) / levels, np.round(levels * reference) / levels
        carried = Evidence(np.round(levels * carried.values) / levels, carried.weights)
    result = believe(rewards, reference, SETTINGS, carried)
    others = np.empty(rewards.shape)
    for row, i in np.ndindex(rewards.shape):
        values = np.concatenate([np.delete(rewards[row], i), carried.values[row]])
        weights = np.concatenate([np.ones(group - 1), carried.weights[row]])
        others[row, i] = np.average(values <= rewards[row, i], weights=weights)
    prior = share(rewards, reference)
    a, b = posterior(prior, others, SETTINGS)
    low, high = beta.interval(0.95, a, b)
    np.testing.assert_allclose(result["band_low"], low.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(result["band_high"], high.mean(axis=1), rtol=1e-6)
    drift = np.abs(a / (a + b) - (32 * prior + 0.5) / 33).mean(axis=1)
    np.testing.assert_allclose(result["drift"], drift, atol=1e-12)


def test_carried_evidence_of_where_the_policy_is_makes_the_belief_better() -> None:
    rng = np.random.default_rng(1)
    rewards, reference = rng.normal(size=(400, 4)) + 1.5, rng.normal(size=(400, 32))
    settings = BetaSettings(tau=0.8, strength=32)
    there, elsewhere = (
        miscalibration(believe(rewards, reference, settings, evidence(rng, 400, shift))["pit"].mean(axis=0))
        for shift in (1.5, -3.0)
    )
    assert there < elsewhere / 2


def test_histogram_by_hand() -> None:
    result = pit_histogram(np.array([[0.05, 0.5]]), np.array([[0.25, 0.5]]))
    expected = np.zeros(BINS)
    expected[:3] = np.array([0.05, 0.1, 0.05]) / 0.2 / 2  # spread from 0.05 to 0.25
    expected[5] = 0.5  # a step at 0.5 is in the bin that begins there
    np.testing.assert_allclose(result[0], expected, atol=1e-9)


def test_miscalibration_is_a_distance_from_uniform() -> None:
    assert miscalibration(np.ones(4)) == 0
    assert miscalibration(np.array([1.0, 0, 0, 0])) == pytest.approx(0.75)
