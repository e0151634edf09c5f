"""Re-rankers against slow code, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Ranked
from blade_dist.catalog.rules import Rules, make_rules
from blade_dist.errors import UserError
from blade_dist.evaluation import rerank
from blade_dist.evaluation.dissimilarity import distance_of
from blade_dist.evaluation.rerank import probability, reranked_lists, usable
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import calibration, ild, ild_embedding, ndcg
from blade_dist.settings import ListSettings, Reranker
from tests.helpers.catalogs import ITEMS, make_catalog

K = 4
NAMES: list[Reranker] = ["mmr", "dpp", "utility", "calibrated"]


@st.composite
def pools(draw: st.DrawFn) -> tuple[Ranked, Ragged]:
    """Candidates, best first, some of them misses, and histories."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n, wide = draw(st.integers(1, 4)), draw(st.integers(1, ITEMS))
    items = np.stack([rng.permutation(ITEMS)[:wide] for _ in range(n)]).astype(np.int32)
    scores = -np.sort(-rng.normal(size=items.shape), axis=1)
    items[rng.random(items.shape) < 0.2] = MISS
    scores[items == MISS] = np.nan
    return Ranked(items, scores), Ragged.of([rng.permutation(ITEMS)[: rng.integers(0, 6)] for _ in range(n)])


def swept(
    pool: Ranked, history: Ragged, weights: list[float], rules: Rules | None = None
) -> dict[tuple[Reranker, float], NDArray[np.int32]]:
    return reranked_lists(make_catalog(), pool, history, K, dict.fromkeys(NAMES, weights), rules)


def metric(name: Callable[[Lists, int], np.ndarray], items: list[int], history: list[int] | None = None) -> float:
    lists = Lists(np.array([items], np.int32), Ragged.of([[0]]), Ragged.of([history or []]), make_catalog())
    return float(name(lists, len(items))[0])


def similarity(a: int, b: int, by_embedding: bool) -> float:
    return 1 - metric(ild_embedding if by_embedding else ild, [a, b]) if a != b else 1.0


def mmr_value(taken: list[int], item: int, relevance: dict[int, float], weight: float, by_embedding: bool) -> float:
    nearest = min((1 - similarity(item, other, by_embedding) for other in taken), default=1.0)
    return (1 - weight) * relevance[item] + weight * nearest


def dpp_value(taken: list[int], item: int, relevance: dict[int, float], weight: float, by_embedding: bool) -> float:
    def logdet(items: list[int]) -> float:
        kernel = np.array([[similarity(a, b, by_embedding) for b in items] for a in items])
        return float(np.log(np.linalg.det(kernel))) if items else 0.0

    return (1 - weight) * relevance[item] + weight * (logdet([*taken, item]) - logdet(taken))


def relevance_of(pool: Ranked, row: int) -> dict[int, float]:
    scores = {int(i): float(s) for i, s in zip(pool.items[row], pool.scores[row], strict=True) if i != MISS}
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {item: (score - low) / (high - low) if high > low else 0.0 for item, score in scores.items()}


def check_greedy(found: np.ndarray, relevance: dict[int, float], value: Callable[[list[int], int], float]) -> None:
    """Every item taken is as good as any other; near ties may go either way."""
    items = [int(item) for item in found if item != MISS]
    assert len(items) == min(K, len(relevance)) == len(set(items))
    for position, item in enumerate(items):
        taken = items[:position]
        best = max(value(taken, other) for other in relevance if other not in taken)
        assert value(taken, item) == pytest.approx(best, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(pools(), st.sampled_from([0.1, 0.5, 0.9]), st.booleans())
def test_mmr_is_its_definition(drawn: tuple[Ranked, Ragged], weight: float, by_embedding: bool) -> None:
    pool, history = drawn
    lists = reranked_lists(make_catalog(), pool, history, K, {"mmr": [weight]}, by_embedding=by_embedding)[
        "mmr", weight
    ]
    for row in range(len(pool)):
        relevance = relevance_of(pool, row)
        check_greedy(lists[row], relevance, lambda t, i, r=relevance: mmr_value(t, i, r, weight, by_embedding))


@settings(deadline=None, max_examples=60)
@given(pools(), st.sampled_from([0.1, 0.5, 0.9]))
def test_dpp_takes_what_raises_the_determinant_most(drawn: tuple[Ranked, Ragged], weight: float) -> None:
    """By embeddings, whose determinants are not 0."""
    pool, history = drawn
    lists = reranked_lists(make_catalog(), pool, history, K, {"dpp": [weight]}, by_embedding=True)["dpp", weight]
    for row in range(len(pool)):
        relevance = relevance_of(pool, row)
        check_greedy(lists[row], relevance, lambda t, i, r=relevance: dpp_value(t, i, r, weight, True))


@settings(deadline=None, max_examples=60)
@given(pools(), st.sampled_from([0.1, 0.5, 0.9]))
def test_utility_is_the_expected_metric(drawn: tuple[Ranked, Ragged], weight: float) -> None:
    """The value of a list is ``ndcg`` with each candidate as the target, by its probability, and ``ild``."""
    pool, history = drawn
    lists = reranked_lists(make_catalog(), pool, history, K, {"utility": [weight]})["utility", weight]
    for row in range(len(pool)):
        scores = {int(i): float(s) for i, s in zip(pool.items[row], pool.scores[row], strict=True) if i != MISS}
        total = sum(np.exp(score) for score in scores.values())

        def value(taken: list[int], item: int, scores=scores, total=total) -> float:
            whole = [*taken, item, *[MISS] * (K - len(taken) - 1)]
            lists = Lists(
                np.array([whole] * len(scores), np.int32),
                Ragged.of([[target] for target in scores]),
                Ragged.of([[]] * len(scores)),
                make_catalog(),
            )
            expected = float(ndcg(lists, K) @ [np.exp(score) / total for score in scores.values()])
            return (1 - weight) * expected + weight * metric(ild, whole)

        check_greedy(lists[row], scores, value)


@settings(deadline=None, max_examples=60)
@given(pools(), st.sampled_from([0.1, 0.5, 0.9]))
def test_calibrated_follows_the_metric(drawn: tuple[Ranked, Ragged], weight: float) -> None:
    pool, history = drawn
    lists = reranked_lists(make_catalog(), pool, history, K, {"calibrated": [weight]})["calibrated", weight]
    for row in range(len(pool)):
        relevance, known = relevance_of(pool, row), history[row].tolist()

        def value(taken: list[int], item: int, relevance=relevance, known=known) -> float:
            return (1 - weight) * relevance[item] - weight * metric(calibration, [*taken, item], known)

        check_greedy(lists[row], relevance, value)


@settings(deadline=None, max_examples=60)
@given(pools())
def test_without_weight_a_list_is_the_first_of_the_pool(drawn: tuple[Ranked, Ragged]) -> None:
    pool, history = drawn
    for lists in swept(pool, history, [0.0]).values():
        for found, items in zip(lists, pool.items, strict=True):
            first = items[items != MISS][:K]
            assert found.tolist() == [*first, *[MISS] * (K - len(first))]


@settings(deadline=None, max_examples=60)
@given(pools(), st.sampled_from([0.0, 0.5, 1.0]))
def test_rules_hold(drawn: tuple[Ranked, Ragged], weight: float) -> None:
    pool, history = drawn
    rules = make_rules(ListSettings(k=K, exclude=["i3"], at_most={"a": 1, "b": 2}), make_catalog())
    assert isinstance(rules, Rules)
    for lists in swept(pool, history, [weight], rules).values():
        np.testing.assert_array_equal(rules.keep(lists), lists)
        short = (lists == MISS).any(axis=1)
        for found, items in zip(lists[short], pool.items[short], strict=True):  # none left that fits
            kept = found[found != MISS]
            others = [item for item in items if item != MISS and item not in kept]
            assert all(rules.keep(np.array([[*kept, item]], np.int32))[0, -1] == MISS for item in others)


def test_more_weight_is_more_diverse_and_better_calibrated() -> None:
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(ITEMS) for _ in range(200)]).astype(np.int32)
    pool = Ranked(items, -np.sort(-rng.normal(size=items.shape), axis=1))
    history = Ragged.of([rng.permutation(ITEMS)[:3] for _ in range(200)])
    lists = swept(pool, history, [0.0, 0.3, 1.0])

    def mean(name: Reranker, weight: float, of: Callable[[Lists, int], np.ndarray]) -> float:
        return float(of(Lists(lists[name, weight], Ragged.of([[0]] * 200), history, make_catalog()), K).mean())

    for name in NAMES[:3]:
        assert mean(name, 0.0, ild) < mean(name, 0.3, ild) < mean(name, 1.0, ild)
    drift = [mean("calibrated", weight, calibration) for weight in (0.0, 0.3, 1.0)]
    assert drift == sorted(drift, reverse=True)
    assert drift[0] > drift[1]


def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    items = np.stack([rng.permutation(ITEMS)[:8] for _ in range(9)]).astype(np.int32)
    pool, history = (
        Ranked(items, rng.normal(size=items.shape)),
        Ragged.of([rng.permutation(ITEMS)[:3] for _ in range(9)]),
    )
    whole = swept(pool, history, [0.4])
    monkeypatch.setattr(rerank, "CELLS_AT_ONCE", 80)
    parts = swept(pool, history, [0.4])
    for name in NAMES:
        np.testing.assert_array_equal(whole[name, 0.4], parts[name, 0.4])


def test_distances_are_those_of_the_metrics() -> None:
    pairs = [(a, b) for a in range(ITEMS) for b in range(ITEMS) if a != b]
    items = np.array(pairs, dtype=np.int32)
    for by_embedding in (False, True):
        found = distance_of(make_catalog(), by_embedding)(items[:, 0], items[:, 1:])[:, 0]
        expected = [1 - similarity(a, b, by_embedding) for a, b in pairs]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_has_nothing_to_go_by_is_left_out() -> None:
    asked: dict[Reranker, list[float]] = {"mmr": [0.3], "calibrated": [0.1, 0.5]}
    grouped = replace(make_catalog(), embeddings=None)
    bare = replace(grouped, groups=Ragged.of([[]] * ITEMS), group_names=[])
    embedded = replace(bare, embeddings=make_catalog().embeddings)
    assert usable(asked, grouped) == asked
    assert usable(asked, embedded) == {"mmr": [0.3]}
    assert usable(asked, bare) == {}


def test_no_embeddings_are_said() -> None:
    with pytest.raises(UserError, match=r"data\.columns\.embedding"):
        distance_of(replace(make_catalog(), embeddings=None), by_embedding=True)


def test_a_prompt_without_candidates_has_no_probabilities() -> None:
    pool = Ranked(np.array([[0, 1], [MISS, MISS]], np.int32), np.array([[0.0, 0.0], [-np.inf, -np.inf]], np.float32))
    with np.errstate(all="raise"):
        assert probability(pool).tolist() == [[0.5, 0.5], [0.0, 0.0]]
