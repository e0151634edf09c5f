"""Popularity, co-occurrence and successors against slow, plain code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import MISS, ExcludeHistory, Prompts, Ragged
from blade_dist.evaluation import baselines, top_items
from blade_dist.evaluation.baselines import baseline_lists, cooccurrence_lists, popularity_lists, similarities
from blade_dist.evaluation.successors import DECAY, LAST, NEARER, WINDOW, successor_lists, successors
from tests.helpers.catalogs import ITEMS, made_prompts, make_catalog


def draw_prompts(rng: np.random.Generator, n: int) -> Prompts:
    histories = [rng.permutation(ITEMS)[: rng.integers(1, 6)] for _ in range(n)]
    seen = [[*rng.permutation(ITEMS)[: rng.integers(4)], *history] for history in histories]
    return made_prompts(histories, [[0]] * n, seen=seen)


def draw_sequences(rng: np.random.Generator, users: int, longest: int = 8) -> Ragged:
    """Some items come again, as ``data.repeats: all`` lets them."""
    return Ragged.of([rng.integers(ITEMS, size=rng.integers(2, longest)) for _ in range(users)])


def ranked(score: list[float], excluded: list[int], k: int) -> list[int]:
    popularity = make_catalog().popularity
    allowed = [item for item in range(ITEMS) if item not in excluded]
    best = sorted(allowed, key=lambda item: (-round(score[item], 9), -popularity[item], item))[:k]
    return best + [MISS] * (k - len(best))


def excluded_of(prompts: Prompts, row: int, exclude_history: ExcludeHistory) -> list[int]:
    history, seen = prompts.history[row].tolist(), prompts.seen[row].tolist()
    return {True: seen, False: [], "shown": history}[exclude_history]


def cooccurrence_scores(sequences: Ragged, history: list[int]) -> list[float]:
    """The definition, item by item."""
    users = [set(sequences[row]) for row in range(len(sequences))]

    def users_with(*items: int) -> int:
        return sum(set(items) <= user for user in users)

    def score(item: int) -> float:
        pairs = [(users_with(i, item), users_with(i) * users_with(item)) for i in set(history) if i != item]
        return sum(both / math.sqrt(product) for both, product in pairs if both)

    return [score(item) for item in range(ITEMS)]


def successor_scores(sequences: Ragged, history: list[int]) -> list[float]:
    """The definition, pair by pair."""
    counts = np.zeros((ITEMS, ITEMS))
    for row in range(len(sequences)):
        items = sequences[row]
        for place, item in enumerate(items):
            for distance, later in enumerate(items[place + 1 : place + 1 + WINDOW]):
                counts[item, later] += NEARER**distance
    scores = np.zeros(ITEMS)
    for lag, item in enumerate(history[::-1][:LAST]):
        if counts[item].any():
            scores += DECAY**lag * counts[item] / math.sqrt(counts[item].sum())
    return scores.tolist()


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, ITEMS + 2), st.sampled_from([True, False, "shown"]))
def test_cooccurrence_is_its_definition(seed: int, k: int, exclude_history: ExcludeHistory) -> None:
    rng = np.random.default_rng(seed)
    sequences, prompts = draw_sequences(rng, 6), draw_prompts(rng, 4)
    found = cooccurrence_lists(make_catalog(), sequences, prompts, k, exclude_history)
    assert found.dtype == np.int32
    for row in range(len(prompts)):
        scores = cooccurrence_scores(sequences, prompts.history[row].tolist())
        assert found[row].tolist() == ranked(scores, excluded_of(prompts, row, exclude_history), k)


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, ITEMS + 2), st.sampled_from([True, False, "shown"]))
def test_successors_are_their_definition(seed: int, k: int, exclude_history: ExcludeHistory) -> None:
    rng = np.random.default_rng(seed)
    sequences = draw_sequences(rng, 6, longest=2 * WINDOW)
    histories = [rng.integers(ITEMS, size=rng.integers(1, 2 * LAST)) for _ in range(4)]
    prompts = made_prompts(histories, [[0]] * 4, seen=[np.unique(history) for history in histories])
    found = successor_lists(make_catalog(), sequences, prompts, k, exclude_history)
    assert found.dtype == np.int32
    for row in range(len(prompts)):
        scores = successor_scores(sequences, prompts.history[row].tolist())
        assert found[row].tolist() == ranked(scores, excluded_of(prompts, row, exclude_history), k)


def test_the_last_item_says_most() -> None:
    """0 is followed by 5 and 1 by 7, each once; who took 0 and then 1 is shown 7 first."""
    sequences, prompts = Ragged.of([[0, 5], [1, 7]]), made_prompts([[0, 1], [1, 0]], [[9]] * 2)
    assert successor_lists(make_catalog(), sequences, prompts, 2, True).tolist() == [[7, 5], [5, 7]]


def test_no_sequence_runs_into_the_next_one() -> None:
    assert successors(Ragged.of([[0, 1], [2, 3]]), ITEMS).nnz == 2


def test_what_never_occurs_with_the_history_is_ordered_by_popularity() -> None:
    sequences, prompts = Ragged.of([[9, 11]]), made_prompts([[9]], [[0]])
    for lists in (cooccurrence_lists, successor_lists):
        assert lists(make_catalog(), sequences, prompts, 4, exclude_history=True).tolist() == [[11, 0, 1, 2]]


def test_every_baseline_has_its_lists() -> None:
    rng = np.random.default_rng(1)
    sequences, prompts = draw_sequences(rng, 9), draw_prompts(rng, 3)
    lists = baseline_lists(make_catalog(), sequences, prompts, prompts, 4, exclude_history=True)
    assert list(lists) == ["popularity", "co-occurrence", "successors", "EASE"]
    assert {items.shape for items in lists.values()} == {(3, 4)}


def test_a_large_catalog_has_no_ease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_ITEMS", ITEMS - 1)
    prompts = made_prompts([[0]], [[1]])
    assert "EASE" not in baseline_lists(make_catalog(), Ragged.of([[0, 1]]), prompts, prompts, 4, True)


@pytest.mark.parametrize("cells", [1, 3 * ITEMS, 10**6])
def test_the_size_of_a_batch_changes_nothing(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    sequences, prompts = draw_sequences(rng, 20), draw_prompts(rng, 7)
    expected = cooccurrence_lists(make_catalog(), sequences, prompts, 5, exclude_history=True)
    monkeypatch.setattr(top_items, "SCORES_AT_ONCE", cells)
    found = cooccurrence_lists(make_catalog(), sequences, prompts, 5, exclude_history=True)
    np.testing.assert_array_equal(found, expected)


def test_without_training_sequences_nothing_is_alike() -> None:
    nobody = Ragged.of([])
    assert not similarities(make_catalog(), nobody).toarray().any()
    assert not successors(nobody, ITEMS).toarray().any()


def test_a_catalog_that_is_used_up_leaves_misses() -> None:
    prompts = made_prompts([np.arange(ITEMS - 2)], [[0]])
    excluded = popularity_lists(make_catalog(), prompts, 4, exclude_history=True)
    assert excluded.tolist() == [[ITEMS - 2, ITEMS - 1, MISS, MISS]]


def test_what_is_given_is_left_as_it_was() -> None:
    """Rows are slices of a read-only file, oldest first."""
    rng = np.random.default_rng(0)
    sequences, prompts = draw_sequences(rng, 9), draw_prompts(rng, 3)
    before = prompts.history.flat.copy(), sequences.flat.copy()
    for rows in (sequences, prompts.history, prompts.seen):
        rows.flat.flags.writeable = False
    baseline_lists(make_catalog(), sequences, prompts, prompts, 3, exclude_history=True)
    np.testing.assert_array_equal(prompts.history.flat, before[0])
    np.testing.assert_array_equal(sequences.flat, before[1])


def test_no_prompts_no_lists() -> None:
    nobody = made_prompts([], [])
    assert popularity_lists(make_catalog(), nobody, 3, exclude_history=True).shape == (0, 3)
