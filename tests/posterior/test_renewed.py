"""Renewed reference rewards: the newest of each prompt, sorted, and the prior's elsewhere."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.posterior.renewed import Renewed

ROWS = st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True)


@given(st.lists(ROWS, max_size=4), st.lists(st.integers(0, 9), max_size=12), st.integers(0, 2**31))
def test_each_row_has_its_newest_rewards(renewals: list[list[int]], wanted: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.random((10, 3))
    prior, renewed = expected.copy(), Renewed.none(3)
    for rows in renewals:
        rewards = rng.random((len(rows), 3))
        expected[rows] = np.sort(rewards, axis=1)
        renewed = renewed.renew(np.array(rows), rewards)
    ask = np.array(wanted, dtype=np.int64)
    np.testing.assert_array_equal(renewed.over(ask, prior[ask]), expected[ask])
    assert renewed.covers(ask).tolist() == [row in {r for rows in renewals for r in rows} for row in wanted]
    assert (np.diff(renewed.rows) > 0).all()
