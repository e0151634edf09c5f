"""The interval, over users."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from blade_dist.evaluation import bootstrap
from blade_dist.evaluation.bootstrap import Resamples, mean_interval, paired_bootstrap


def test_paired_interval_matches_scipy() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0.5, 1, 300)
    b = a - rng.gamma(2, 0.1, 300)
    own = paired_bootstrap(a, b, np.arange(300), 4000, seed=1)
    peer = stats.bootstrap(
        (a, b), lambda x, y: np.mean(x - y), paired=True, vectorized=False, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    np.testing.assert_allclose([own.low, own.high], [peer.low, peer.high], rtol=0.02)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    """60 users with 1 to 4 rows each; 200 logs; the true mean is 0."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        users = np.repeat(np.arange(60), rng.integers(1, 5, 60))
        values = rng.normal(size=60)[users] + rng.normal(size=len(users))
        interval = mean_interval(values, users, 400, seed=0)
        inside += interval.low <= 0 <= interval.high
    assert 0.89 <= inside / 200 <= 0.99


@pytest.mark.parametrize("draws", [1, 1000, 10**7])
def test_the_size_of_a_batch_changes_nothing(draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, users = np.random.default_rng(0).normal(size=90), np.repeat(np.arange(30), 3)
    expected = mean_interval(values, users, 100, seed=4)
    monkeypatch.setattr(bootstrap, "DRAWS", draws)
    # but the order in which floats are added up
    assert mean_interval(values, users, 100, seed=4).as_dict() == pytest.approx(expected.as_dict(), rel=1e-12)


def test_many_columns_are_as_one_by_one() -> None:
    rng = np.random.default_rng(2)
    users, values = rng.integers(0, 20, 60), {name: rng.normal(size=60) for name in "abc"}
    resamples = Resamples(users, 200, seed=3)
    together = resamples.each_mean(values)
    assert list(together) == ["a", "b", "c"]
    for name, column in values.items():
        assert together[name].as_dict() == pytest.approx(resamples.mean(column).as_dict(), rel=1e-12)
    assert resamples.each_mean({}) == {}


def test_a_seed_is_a_result() -> None:
    values, users = np.random.default_rng(0).normal(size=50), np.arange(50)
    assert mean_interval(values, users, 100, seed=1) == mean_interval(values, users, 100, seed=1)
    assert mean_interval(values, users, 100, seed=1) != mean_interval(values, users, 100, seed=2)


def test_a_ratio_matches_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.gamma(2, 1.2, 300), rng.gamma(2, 1, 300)
    own = Resamples(np.arange(300), 8000, 0).ratio(a, b)

    def ratio(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean(x) / np.mean(y) - 1)

    peer = stats.bootstrap((a, b), ratio, paired=True, vectorized=False, n_resamples=8000, method="percentile", rng=2)
    low, high = peer.confidence_interval
    assert own.mean == pytest.approx(a.mean() / b.mean() - 1)
    np.testing.assert_allclose([own.low, own.high], [low, high], atol=0.01)


def test_the_windows_and_seeds_of_a_user_stay_together() -> None:
    """Copies of the same rows add nothing to what is known."""
    values = np.random.default_rng(0).normal(size=50)
    once, often = Resamples(np.arange(50), 500, 0), Resamples(np.tile(np.arange(50), 6), 500, 0)
    assert once.mean(values).as_dict() == pytest.approx(often.mean(np.tile(values, 6)).as_dict())


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_p_values_are_near_the_t_tests(shift: float) -> None:
    difference = np.random.default_rng(5).normal(size=200)
    difference += shift - difference.mean()
    own = Resamples(np.arange(200), 10_000, 0).p_value(difference)
    assert own == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.02)
    assert own > 0
