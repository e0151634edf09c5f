"""J-BOND's reward: what it is worth on average, and where it is silent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.posterior.targets.bond import PENALTY, centred_advantage, jbond_reward


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.integers(0, 5), st.integers(0, 5))
def test_only_a_list_worse_than_both_is_fined(group: list[int], first: int, second: int) -> None:
    result = jbond_reward(np.array([group], float), np.array([[first, second]], float))
    assert result.tolist() == [[-np.log(16) if r < first and r < second else 0.0 for r in group]]


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_its_mean_at_a_quantile_of_the_anchor(quantile: float) -> None:
    """Over 400 x 400 equally likely pairs of the anchor's lists."""
    levels = (np.arange(400) + 0.5) / 400
    pairs = np.stack(np.meshgrid(levels, levels), axis=-1).reshape(-1, 2)
    mean = jbond_reward(np.full((len(pairs), 1), quantile), pairs).mean()
    assert mean == pytest.approx(-((1 - quantile) ** 2) * PENALTY, abs=1e-9)
    if quantile in (0.5, 1.0):
        assert mean == pytest.approx(np.log(quantile))


def test_a_group_above_both_of_the_anchor_s_lists_has_no_advantage() -> None:
    anchor = np.array([[0.2, 0.3], [0.2, 0.3]])
    proxy = jbond_reward(np.array([[0.3, 0.4, 0.9], [0.1, 0.4, 0.9]]), anchor)
    above, mixed = centred_advantage(proxy)
    assert above.tolist() == [0, 0, 0]
    np.testing.assert_allclose(mixed, PENALTY / 3 * np.array([-2, 1, 1]), rtol=1e-6)
