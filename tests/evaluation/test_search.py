"""Best-of-N at serving time."""

from __future__ import annotations

import numpy as np
import pytest

from blade_dist.batches import Ranked
from blade_dist.evaluation.search import best_of, is_oracle, repeated
from blade_dist.rewards.composite import Composite
from tests.helpers.catalogs import made_prompts, make_catalog

PROMPTS = made_prompts([[0], [1, 2]], [[3], [4]], ["a", "b"])
RANKER = Ranked(np.array([[1, 2, 3], [5, 4, 3]], np.int32), np.log([[0.5, 0.3, 0.1]] * 2))
ITEMS = np.array([[[1, 2], [3, 4]], [[4, 5], [0, 3]]], np.int32)


def test_the_best_list_of_each_prompt_is_taken() -> None:
    lists = repeated(PROMPTS, ITEMS, make_catalog(), None)
    scores = Composite({"recall@2": 1.0}, make_catalog(), 2).score(lists)[0].reshape(2, 2)
    np.testing.assert_array_equal(best_of(ITEMS, scores), [[3, 4], [4, 5]])


def test_among_equal_lists_the_first_is_taken() -> None:
    np.testing.assert_array_equal(best_of(ITEMS, np.zeros((2, 2))), ITEMS[:, 0])


@pytest.mark.parametrize(
    ("metric", "oracle"),
    [
        ("ndcg@2", True),
        ("recall@2", True),
        ("hr@2", True),
        ("ild@2", False),
        ("mgu@2", False),
        ("expected_ndcg@2", False),
    ],
)
def test_a_choice_that_looks_at_held_out_items_is_an_oracle(metric: str, oracle: bool) -> None:
    select = Composite({metric: 1.0, "novelty@2": 0.1}, make_catalog(), 2)
    assert is_oracle(select, repeated(PROMPTS, ITEMS, make_catalog(), RANKER)) is oracle
