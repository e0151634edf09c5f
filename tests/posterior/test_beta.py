"""The posterior's facts, against brute force and scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from blade_dist.posterior.advantage import group_advantage, informative
from blade_dist.posterior.beta import BetaSettings, Evidence, posterior, proxy_reward, share
from blade_dist.posterior.targets.best_of_n_sft import best_of_group

GRID = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
BLADE = BetaSettings(tau=0.3, strength=8)
STATIC = replace(BLADE, tau=0.0)


def rewards(columns: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, (3, columns), elements=GRID)


@given(rewards(5), rewards(8))
def test_shares_match_brute_force(group: np.ndarray, reference: np.ndarray) -> None:
    at, below = share(group, reference), share(group, reference, strictly=True)
    np.testing.assert_allclose(at, (reference[:, None, :] <= group[:, :, None]).mean(axis=2))
    np.testing.assert_allclose(below, (reference[:, None, :] < group[:, :, None]).mean(axis=2))


@given(rewards(5), rewards(8), arrays(np.float64, (3, 8), elements=st.floats(0.1, 3)))
def test_weighted_shares_match_brute_force(group: np.ndarray, sample: np.ndarray, weights: np.ndarray) -> None:
    at = share(group, sample, weights)
    counted = (sample[:, None, :] <= group[:, :, None]) * weights[:, None, :]
    np.testing.assert_allclose(at, counted.sum(axis=2) / weights.sum(axis=1, keepdims=True))


@given(rewards(5), rewards(8), st.floats(0, 0.99))
def test_cdf_is_monotone_and_inside_the_unit_interval(group: np.ndarray, reference: np.ndarray, tau: float) -> None:
    proxy = proxy_reward(group, reference, replace(BLADE, tau=tau))
    assert (proxy < 0).all()
    assert np.isfinite(proxy).all()
    order = np.argsort(group, axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(proxy, order, axis=1), axis=1) >= -1e-12).all()


@given(rewards(5), rewards(8))
def test_tau_zero_is_the_prior_alone(group: np.ndarray, reference: np.ndarray) -> None:
    share = (reference[:, None, :] <= group[:, :, None]).mean(axis=2)
    expected = np.log((8 * share + 0.5) / (8 + 1))
    np.testing.assert_allclose(proxy_reward(group, reference, STATIC), expected, rtol=1e-12)


@given(st.floats(0.01, 0.95), st.floats(0, 1), st.floats(0, 1))
def test_tau_is_the_share_of_the_evidence(tau: float, prior: float, evidence: float) -> None:
    settings = replace(BLADE, tau=tau)
    a, b = posterior(np.array([[prior]]), np.array([[evidence]]), settings)
    prior_mean = (8 * prior + 0.5) / 9
    np.testing.assert_allclose(a / (a + b), (1 - tau) * prior_mean + tau * evidence, rtol=1e-10)


def test_parameters_are_those_of_the_conjugate_posterior() -> None:
    """Beta prior, then w * k successes in w * G trials: scipy's density, proportional to prior times likelihood."""
    m, s, tau, group, k, share = 8.0, 0.5, 0.3, 4, 3, 0.625
    settings = BetaSettings(tau=tau, strength=m, smoothing=s)
    a, b = posterior(np.array([[share]]), np.array([[k / group]]), settings)
    w = tau * (m + 2 * s) / ((1 - tau) * group)
    p = np.linspace(0.01, 0.99, 99)
    unscaled = stats.beta.pdf(p, m * share + s, m * (1 - share) + s) * p ** (w * k) * (1 - p) ** (w * (group - k))
    ratio = stats.beta.pdf(p, a.item(), b.item()) / unscaled
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


def test_mean_log_is_the_expectation() -> None:
    group, reference = np.array([[0.5, 0.9]]), np.array([[0.1, 0.4, 0.6, 0.8, 0.85, 0.2, 0.3, 0.7]])
    a, b = posterior(share(group, reference), share(group, group), BLADE)
    expected = [stats.beta(x, y).expect(np.log) for x, y in zip(a[0], b[0], strict=True)]
    np.testing.assert_allclose(proxy_reward(group, reference, replace(BLADE, proxy="mean_log"))[0], expected, rtol=1e-6)


def test_above_the_reference_only_blade_tells_lists_apart() -> None:
    group, reference = np.array([[1.1, 1.2, 1.3, 1.4]]), np.linspace(0, 1, 8)[None]
    static, blade = proxy_reward(group, reference, STATIC), proxy_reward(group, reference, BLADE)
    assert not informative(static).any()
    assert (group_advantage(static, "std") == 0).all()
    assert informative(blade).all()
    assert (np.diff(group_advantage(blade, "std"), axis=1) > 0).all()


FORMS = [("le", "log_mean"), ("mid", "log_mean"), ("le", "mean_log"), ("mid", "mean_log"), ("exact", "log_mean")]


@given(rewards(8), st.sampled_from(FORMS))
def test_two_levels_leave_nothing_to_choose(reference: np.ndarray, form: tuple[str, str]) -> None:
    """With two reward values in a group, every strictly monotone target gives the same std-scaled advantages."""
    group = np.tile([0.0, 1.0, 1.0, 0.0, 1.0], (3, 1))
    ties, proxy = form
    target = proxy_reward(group, reference, replace(BLADE, ties=ties, proxy=proxy))
    np.testing.assert_allclose(group_advantage(target, "std"), group_advantage(group, "std"), atol=2e-4)


def test_exact_ties_tell_levels_apart_as_best_of_n_does() -> None:
    """Levels F = .6/.85/.95/1 and N = 16: top to bottom ratio 23,800 exactly, 2,127 by F^(N-1)."""
    n, levels = 16, np.array([0.6, 0.85, 0.95, 1.0])
    reference = np.repeat(np.arange(4.0), np.diff(np.r_[0, levels] * 1000).round().astype(int))[None]
    almost_none = BetaSettings(tau=0.0, strength=1e9, bon_n=n)

    def ratio(ties: str) -> float:
        proxy = proxy_reward(np.arange(4.0)[None], reference, replace(almost_none, ties=ties))
        return float(np.exp((n - 1) * (proxy[0, -1] - proxy[0, 0])))

    assert ratio("exact") == pytest.approx(23_800, rel=0.002)
    assert ratio("le") == pytest.approx(2_127, rel=0.002)


def test_exact_tends_to_log_f_without_ties() -> None:
    reference = np.linspace(0, 1, 20_000)[None]
    group = np.array([[0.2, 0.5, 0.9]])
    settings = BetaSettings(tau=0.0, strength=20_000)
    gap = proxy_reward(group, reference, replace(settings, ties="exact")) - proxy_reward(group, reference, settings)
    assert np.abs(gap).max() < 1e-3


def test_carried_evidence_shifts_the_belief() -> None:
    group, reference = np.array([[0.2, 0.8]]), np.array([[0.1, 0.3, 0.5, 0.7]])
    high = Evidence(np.full((1, 4), 0.9), np.ones((1, 4)))
    nothing = Evidence(np.full((1, 4), 0.9), np.zeros((1, 4)))
    plain = proxy_reward(group, reference, BLADE)
    np.testing.assert_allclose(proxy_reward(group, reference, BLADE, nothing), plain)
    assert (proxy_reward(group, reference, BLADE, high) < plain).all()


@given(rewards(6))
def test_advantages_are_centred_and_zero_without_differences(proxy: np.ndarray) -> None:
    for scale in ("std", "none"):
        advantage = group_advantage(proxy, scale)
        np.testing.assert_allclose(advantage.mean(axis=1), 0, atol=1e-5)
        assert (advantage[~informative(proxy)] == 0).all()
    assert (informative(proxy) == (np.ptp(proxy, axis=1) > 0)).all()


@given(rewards(6))
def test_only_groups_with_differences_have_best_lists_to_imitate(proxy: np.ndarray) -> None:
    advantage = best_of_group(proxy)
    np.testing.assert_allclose(advantage.sum(axis=1), np.where(informative(proxy), 6, 0), rtol=1e-6)
    assert ((advantage > 0) <= (proxy == proxy.max(axis=1, keepdims=True))).all()
