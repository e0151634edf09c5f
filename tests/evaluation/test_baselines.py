"""Popularity and co-occurrence against slow, plain code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import MISS, ExcludeHistory, Prompts
from blade_dist.evaluation import baselines
from blade_dist.evaluation.baselines import cooccurrence_lists, popularity_lists, similarities
from tests.helpers.catalogs import ITEMS, made_prompts, make_catalog


def draw_prompts(rng: np.random.Generator, n: int, users: int) -> Prompts:
    histories = [rng.permutation(ITEMS)[: rng.integers(1, 6)] for _ in range(n)]
    targets = [rng.permutation(ITEMS)[: rng.integers(1, 4)] for _ in range(n)]
    seen = [[*rng.permutation(ITEMS)[: rng.integers(4)], *history] for history in histories]
    return made_prompts(histories, targets, [f"u{rng.integers(users)}" for _ in range(n)], seen)


def plainly(train: Prompts, history: list[int], excluded: list[int], k: int) -> list[int]:
    """The definition, item by item."""
    sequences: dict[str, set[int]] = {}
    for row in range(len(train)):
        sequences.setdefault(train.user[row], set()).update(train.history[row], train.targets[row])

    def users_with(*items: int) -> int:
        return sum(set(items) <= sequence for sequence in sequences.values())

    def score(item: int) -> float:
        pairs = [(users_with(i, item), users_with(i) * users_with(item)) for i in set(history) if i != item]
        return sum(both / math.sqrt(product) for both, product in pairs if both)

    popularity = make_catalog().popularity
    allowed = [item for item in range(ITEMS) if item not in excluded]
    ranked = sorted(allowed, key=lambda item: (-round(score(item), 9), -popularity[item], item))[:k]
    return ranked + [MISS] * (k - len(ranked))


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, ITEMS + 2), st.sampled_from([True, False, "shown"]))
def test_cooccurrence_is_its_definition(seed: int, k: int, exclude_history: ExcludeHistory) -> None:
    rng = np.random.default_rng(seed)
    train, prompts = draw_prompts(rng, 12, users=5), draw_prompts(rng, 4, users=4)
    found = cooccurrence_lists(make_catalog(), train, prompts, k, exclude_history)
    assert found.dtype == np.int32
    for row in range(len(prompts)):
        history, seen = prompts.history[row].tolist(), prompts.seen[row].tolist()
        excluded = {True: seen, False: [], "shown": history}[exclude_history]
        assert found[row].tolist() == plainly(train, history, excluded, k)


def test_what_never_occurs_with_the_history_is_ordered_by_popularity() -> None:
    train, prompts = made_prompts([[9]], [[11]], ["a"]), made_prompts([[9]], [[0]], ["b"])
    assert cooccurrence_lists(make_catalog(), train, prompts, 4, exclude_history=True).tolist() == [[11, 0, 1, 2]]


@pytest.mark.parametrize("cells", [1, 3 * ITEMS, 10**6])
def test_the_size_of_a_batch_changes_nothing(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    train, prompts = draw_prompts(rng, 20, users=8), draw_prompts(rng, 7, users=8)
    expected = cooccurrence_lists(make_catalog(), train, prompts, 5, exclude_history=True)
    monkeypatch.setattr(baselines, "SCORES_AT_ONCE", cells)
    np.testing.assert_array_equal(cooccurrence_lists(make_catalog(), train, prompts, 5, exclude_history=True), expected)


def test_an_earlier_window_counts() -> None:
    """The latest window does not reach back to item 3; the policy is trained on it nevertheless."""
    train = made_prompts([[3], [4]], [[4], [5]], ["a", "a"])
    similar = similarities(make_catalog(), train).toarray()
    np.testing.assert_allclose(similar[[3, 3, 4], [4, 5, 5]], 1)


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 40))
def test_the_size_of_a_piece_changes_nothing(seed: int, size: int) -> None:
    """A user's rows may lie apart, and a user may be larger than a piece."""
    train = draw_prompts(np.random.default_rng(seed), 20, users=8)
    expected = similarities(make_catalog(), train).toarray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "PAIRS_AT_ONCE", size)
        np.testing.assert_array_equal(similarities(make_catalog(), train).toarray(), expected)


def test_without_training_rows_nothing_is_alike() -> None:
    nobody = made_prompts([], [])
    assert not similarities(make_catalog(), nobody).toarray().any()


def test_a_catalog_that_is_used_up_leaves_misses() -> None:
    prompts = made_prompts([np.arange(ITEMS - 2)], [[0]])
    excluded = popularity_lists(make_catalog(), prompts, 4, exclude_history=True)
    assert excluded.tolist() == [[ITEMS - 2, ITEMS - 1, MISS, MISS]]


def test_prompts_are_left_as_they_were() -> None:
    """Histories are slices of a read-only file, oldest first."""
    rng = np.random.default_rng(0)
    train, prompts = draw_prompts(rng, 9, users=4), draw_prompts(rng, 3, users=4)
    before = prompts.history.flat.copy()
    for rows in (train.history, train.targets, prompts.history):
        rows.flat.flags.writeable = False
    cooccurrence_lists(make_catalog(), train, prompts, 3, exclude_history=True)
    np.testing.assert_array_equal(prompts.history.flat, before)


def test_no_prompts_no_lists() -> None:
    nobody = made_prompts([], [])
    assert popularity_lists(make_catalog(), nobody, 3, exclude_history=True).shape == (0, 3)
