"""What is said of how reference lists differ, against counting pair by pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.posterior.ties import ties


@given(st.lists(st.lists(st.integers(0, 3), min_size=0, max_size=6), min_size=1, max_size=5).filter(any))
def test_ties_are_those_of_all_pairs(rows: list[list[int]]) -> None:
    rewards = np.full((len(rows), 6), np.nan)
    for row, values in enumerate(rows):
        rewards[row, : len(values)] = sorted(values)
    result, known = ties(rewards), [row for row in rows if row]
    equal = [a == b for row in known for a, b in combinations(row, 2)]
    assert (result.prompts, result.lists) == (len(known), sum(map(len, known)))
    assert result.mean == pytest.approx(np.mean([value for row in known for value in row]))
    assert result.best == pytest.approx(np.mean([max(row) for row in known]))
    assert result.pairs == pytest.approx(np.mean(equal) if equal else 0)
    assert result.alike == pytest.approx(np.mean([len(set(row)) == 1 for row in known]))


def test_ties_in_words() -> None:
    words = str(ties(np.array([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]])))
    assert words == (
        "8 reference lists of 2 prompts: reward 0.1875 on average, 0.5 the best of each prompt's; 58.3% of the pairs "
        "of a prompt's lists are equal, on 50.0% of the prompts all lists are"
    )


def test_no_list_at_all() -> None:
    with pytest.raises(ValueError, match="no prompt has a reference list"):
        ties(np.full((2, 3), np.nan))
