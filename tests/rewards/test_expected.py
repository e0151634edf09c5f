"""Accuracy to be expected under a ranker's distribution, which reads no held-out item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import MISS, Ragged
from blade_dist.errors import UserError
from blade_dist.rewards.example import example
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import BY_RANKER, METRICS
from tests.helpers.catalogs import batches

RANKER = {4: 0.5, 7: 0.25, 2: 0.2}
DISCOUNT = 1 / np.log2(np.arange(2, 12))

metrics = pytest.mark.parametrize("name", BY_RANKER)


def probability(lists: Lists, row: int) -> dict[int, float]:
    """Of each item that the row's ranker names."""
    assert lists.ranker is not None
    named = zip(lists.ranker.items[row].tolist(), np.exp(lists.ranker.scores[row]).tolist(), strict=True)
    return {item: p for item, p in named if item != MISS}


def test_by_hand() -> None:
    lists = example([2, 9, 4, 7], ranker=RANKER)
    best = 0.5 + 0.25 / np.log2(3) + 0.2 / 2
    assert METRICS["expected_ndcg"](lists, 3)[0] == pytest.approx((0.2 + 0.5 / 2) / best)
    assert METRICS["expected_recall"](lists, 3)[0] == pytest.approx(0.7 / 0.95)
    assert METRICS["expected_ndcg"](lists, 1)[0] == pytest.approx(0.2 / 0.5)
    whole = (0.2 + 0.5 / 2 + 0.25 / np.log2(5)) / best  # a fourth position can hold nothing that the ranker knows
    assert METRICS["expected_ndcg"](lists, 4)[0] == pytest.approx(whole)


@metrics
def test_what_is_invalid_or_there_again_counts_nothing(name: str) -> None:
    def score(*items: int) -> float:
        return float(METRICS[name](example(items, ranker=RANKER), len(items))[0])

    assert score(4, MISS, 2) == score(4, 4, 2) == score(4, 11, 2)
    assert score(4, 7, 2) == 1.0
    assert score(MISS, 11, 12) == 0.0


@metrics
@given(lists=batches(), k=st.integers(1, 5))
def test_the_values_are_those_of_the_definition(name: str, lists: Lists, k: int) -> None:
    """Item by item, in plain Python."""
    discount = DISCOUNT[:k] if name == "expected_ndcg" else np.ones(k)
    for row, value in enumerate(METRICS[name](lists, k)):
        likely = probability(lists, row)
        gained = sum(d * likely.get(item, 0.0) for d, item in zip(discount, lists.items[row].tolist(), strict=False))
        best = sum(d * p for d, p in zip(discount, sorted(likely.values(), reverse=True), strict=False))
        assert value == pytest.approx(gained / best)


@metrics
@given(lists=batches(), k=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_the_ranking_has_one_and_nothing_has_more(name: str, lists: Lists, k: int, seed: int) -> None:
    assert lists.ranker is not None
    ranking = replace(lists, items=lists.ranker.items[:, :5])
    np.testing.assert_array_equal(METRICS[name](ranking, k), 1.0)
    drawn = np.random.default_rng(seed).integers(-1, 12, lists.items.shape, dtype=np.int32)  # repeats among them
    for items in (lists.items, drawn):
        values = METRICS[name](replace(lists, items=items), k)
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


@given(batches(), st.integers(0, 3))
def test_a_likelier_item_that_moves_up_never_costs(lists: Lists, position: int) -> None:
    swapped = lists.items.copy()
    swapped[:, [position, position + 1]] = swapped[:, [position + 1, position]]
    before, after = (METRICS["expected_ndcg"](part, 5) for part in (lists, replace(lists, items=swapped)))
    for row in range(len(lists)):
        upper, lower = (probability(lists, row).get(int(lists.items[row, position + at]), 0.0) for at in (0, 1))
        if lower == pytest.approx(upper):
            assert after[row] == pytest.approx(before[row])
        else:
            assert bool(after[row] > before[row]) == (lower > upper)
    same = METRICS["expected_recall"](replace(lists, items=swapped), 5)
    np.testing.assert_allclose(same, METRICS["expected_recall"](lists, 5), rtol=1e-12)


@metrics
@given(batches())
def test_what_was_held_out_is_not_read(name: str, lists: Lists) -> None:
    """So that prompts without any held-out item have a value too."""
    without = replace(lists, targets=Ragged.of([[]] * len(lists)))
    np.testing.assert_array_equal(METRICS[name](without, 5), METRICS[name](lists, 5))


@metrics
@given(batches())
def test_the_tail_s_share_changes_nothing(name: str, lists: Lists) -> None:
    """Whether the best items' probabilities are renormalised, or the tail's mass is with nobody."""
    assert lists.ranker is not None
    whole = replace(lists, ranker=replace(lists.ranker, scores=lists.ranker.scores + 0.5))
    np.testing.assert_allclose(METRICS[name](whole, 5), METRICS[name](lists, 5), rtol=1e-12)


@metrics
def test_without_a_ranker_it_says_so(name: str) -> None:
    with pytest.raises(UserError, match="need a ranker's distribution"):
        METRICS[name](example([1, 2]), 2)
