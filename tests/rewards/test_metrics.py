"""List-wise metrics against by-hand values and independent libraries."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import METRICS, metric
from tests.helpers.catalogs import ITEMS, batches, make_catalog

BETTER_IF_LESS = {"mgu", "dgu", "calibration"}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return make_catalog()


def score(name: str, lists: Lists, k: int = 5) -> np.ndarray:
    function, cut = metric(f"{name}@{k}", 5)
    return function(lists, cut)


def lists_of(catalog: Catalog, items: list[int], targets: list[int], history: list[int]) -> Lists:
    return Lists(np.array([items], np.int32), Ragged.of([targets]), Ragged.of([history]), catalog)


@settings(deadline=None)
@given(batches(), st.integers(1, 5))
def test_accuracy_matches_torchmetrics(lists: Lists, k: int) -> None:
    """Scores fall with the position; items that are not recommended come after all that are."""
    peers = {
        "ndcg": retrieval_normalized_dcg,
        "recall": retrieval_recall,
        "hr": retrieval_hit_rate,
        "mrr": retrieval_reciprocal_rank,
    }
    for row in range(len(lists)):
        relevance = torch.zeros(lists.items.shape[1] + ITEMS)
        hits = lists.hits[row]
        relevance[: len(hits)] = torch.from_numpy(hits.astype(np.float32))
        relevance[len(hits) : len(hits) + len(lists.targets[row]) - int(hits.sum())] = 1  # targets that were missed
        ranking = torch.arange(len(relevance), 0, -1, dtype=torch.float32)
        for name, peer in peers.items():
            expected = float(peer(ranking, relevance.bool(), top_k=k))
            assert score(name, lists, k)[row] == pytest.approx(expected, abs=1e-6), name


@settings(deadline=None)
@given(batches(misses=False))
def test_ndcg_matches_rectools(lists: Lists) -> None:
    rectools = pytest.importorskip("rectools")
    from rectools.metrics import NDCG

    user, item = rectools.Columns.User, rectools.Columns.Item
    rows = np.repeat(np.arange(len(lists)), lists.items.shape[1])
    ranked = pd.DataFrame(
        {user: rows, item: lists.items.reshape(-1), rectools.Columns.Rank: np.tile(np.arange(1, 6), len(lists))}
    )
    owners = np.repeat(np.arange(len(lists)), lists.targets.lengths)
    held_out = pd.DataFrame({user: owners, item: lists.targets.flat})
    expected = NDCG(k=5, divide_by_achievable=True).calc_per_user(ranked, held_out)
    np.testing.assert_allclose(score("ndcg", lists), expected.to_numpy(), atol=1e-9)


@settings(deadline=None)
@given(batches(misses=False))
def test_ild_matches_rectools(lists: Lists) -> None:
    rectools = pytest.importorskip("rectools")
    from rectools.metrics import IntraListDiversity
    from rectools.metrics.distances import PairwiseDistanceCalculator

    has = (lists.catalog.group_matrix() > 0).astype(float)

    class Jaccard(PairwiseDistanceCalculator):
        def _get_distances_for_item_pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            a, b = np.asarray(a), np.asarray(b)
            return 1 - np.minimum(has[a], has[b]).sum(1) / np.maximum(has[a], has[b]).sum(1)

    rows = np.repeat(np.arange(len(lists)), lists.items.shape[1])
    ranked = pd.DataFrame(
        {
            rectools.Columns.User: rows,
            rectools.Columns.Item: lists.items.reshape(-1),
            rectools.Columns.Rank: np.tile(np.arange(1, 6), len(lists)),
        }
    )
    expected = IntraListDiversity(k=5, distance_calculator=Jaccard()).calc_per_user(ranked)
    np.testing.assert_allclose(score("ild", lists), expected.to_numpy(), atol=1e-6)


def test_fairness_by_hand(catalog: Catalog) -> None:
    # items 1, 7 are in b; 3, 9 in a; history half a, half b; groups: a, b, c
    one_sided = lists_of(catalog, [1, 7], [1], [3, 7])
    assert score_k2("mgu", one_sided) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert score_k2("dgu", one_sided) == pytest.approx(1.0)
    even = lists_of(catalog, [1, 9], [1], [3, 7])
    assert score_k2("mgu", even) == pytest.approx(0)
    half_missing = lists_of(catalog, [1, MISS], [1], [3, 7])
    assert score_k2("mgu", half_missing) == pytest.approx((0.5 + 0 + 0 + 0.5) / 3)


def score_k2(name: str, lists: Lists) -> float:
    return float(METRICS[name](lists, 2)[0])


def test_diversity_by_hand(catalog: Catalog) -> None:
    assert score_k2("ild", lists_of(catalog, [1, 7], [1], [0])) == 0  # both in b
    assert score_k2("ild", lists_of(catalog, [1, 3], [1], [0])) == 1  # b and a
    assert score_k2("ild", lists_of(catalog, [3, 0], [1], [0])) == pytest.approx(0.5)  # a; a and c
    assert score_k2("ild", lists_of(catalog, [1, MISS], [1], [0])) == 0
    assert float(METRICS["ild"](lists_of(catalog, [1, 3], [1], [0]), 1)[0]) == 0


def test_long_tail_and_novelty_by_hand(catalog: Catalog) -> None:
    # popularity 144, 121, 100, 81, 64, ... of 650: the first five make 510 < 520 = 80 %, so the sixth is head too
    assert score_k2("long_tail", lists_of(catalog, [5, 6], [1], [0])) == 0.5
    bits = -np.log2(np.array([144, 1]) / 650) / np.log2(650)
    assert score_k2("novelty", lists_of(catalog, [0, 11], [1], [0])) == pytest.approx(bits.mean())


@settings(deadline=None)
@given(batches(), st.sampled_from(sorted(METRICS)), st.data())
def test_a_miss_is_never_better_than_the_worst_item(lists: Lists, name: str, data: st.DataObject) -> None:
    """Whatever item is put where a miss was, nothing is lost."""
    position = data.draw(st.integers(0, 4))
    lists.items[0, position] = MISS
    with_miss = score(name, lists)[0]
    others = set(lists.items[0].tolist())
    tried = []
    for item in range(ITEMS):
        if item not in others:
            filled = lists.items.copy()
            filled[0, position] = item
            tried.append(score(name, replace(lists, items=filled))[0])
    if name in BETTER_IF_LESS:
        assert max(tried) <= with_miss + 1e-9
    else:
        assert min(tried) >= with_miss - 1e-9


@settings(deadline=None)
@given(batches(), st.sampled_from(sorted(METRICS)))
def test_values_are_bounded(lists: Lists, name: str) -> None:
    values = score(name, lists)
    assert values.shape == (len(lists),)
    assert (values >= -1e-9).all()
    assert (values <= 2 + 1e-9 if name == "dgu" else values <= 1 + 1e-9).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@5", r"'ndgc@5': unknown metric; did you mean ndcg@5\?"),
        ("ndcg@6", r"N from 1 to lists.k = 5"),
        ("ndcg", r"write ndcg@N"),
        ("ild@0", r"N from 1"),
        ("ndcg@²", r"N from 1"),
    ],
)
def test_wrong_names_are_explained(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metric(name, 5)


def test_entropy_by_hand(catalog: Catalog) -> None:
    def entropy(items: list[int]) -> float:
        return float(METRICS["entropy"](lists_of(catalog, items, [1], [0]), len(items))[0])

    assert entropy([1, 7]) == 0  # both in b
    assert entropy([1, 3, 5]) == pytest.approx(1)  # b, a, c
    two_thirds = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(3)
    assert entropy([1, 7, 3]) == pytest.approx(two_thirds)
    assert entropy([1, 7, 3, MISS]) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(3))
    assert entropy([MISS, MISS]) == entropy([1, MISS]) == entropy([10, MISS]) == 0


def test_embedding_distance_by_hand(catalog: Catalog) -> None:
    vectors = np.zeros((ITEMS, 2), np.float32)
    vectors[:3] = [[2, 0], [0, 1], [-3, 0]]
    placed = replace(catalog, embeddings=vectors)
    # right angle 0.5, opposite 1, right angle 0.5
    assert float(METRICS["ild_embedding"](lists_of(placed, [0, 1, 2], [1], [0]), 3)[0]) == pytest.approx(2 / 3)
    assert score_k2("ild_embedding", lists_of(placed, [0, MISS], [1], [0])) == 0
    with pytest.raises(UserError, match=r"data\.columns\.embedding"):
        score_k2("ild_embedding", lists_of(replace(catalog, embeddings=None), [0, 1], [1], [0]))


def test_a_list_like_the_history_is_fair_even_with_items_that_have_no_group(catalog: Catalog) -> None:
    same = lists_of(catalog, [3, 10, 1, 8], [1], [8, 10, 3, 1])
    assert float(METRICS["mgu"](same, 4)[0]) == pytest.approx(0, abs=1e-12)
    assert float(METRICS["dgu"](same, 4)[0]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n_groups", [1, 63, 64, 65, 130])
def test_ild_counts_every_group(n_groups: int) -> None:
    """Against sets, on both sides of a machine word's end."""
    rng = np.random.default_rng(n_groups)
    rows = [np.sort(rng.permutation(n_groups)[: rng.integers(0, 5)]) for _ in range(ITEMS)]
    rows[0], rows[1] = np.array([n_groups - 1]), np.array([0, n_groups - 1] if n_groups > 1 else [0])
    many = replace(make_catalog(), groups=Ragged.of(rows), group_names=[f"g{g}" for g in range(n_groups)])
    items = np.stack([rng.permutation(ITEMS)[:5] for _ in range(20)]).astype(np.int32)
    items[0, :2] = [0, 1]

    def distance(a: set[int], b: set[int]) -> float:
        return 1 - len(a & b) / len(a | b) if a | b else 0.0

    sets = [set(row.tolist()) for row in rows]
    expected = [np.mean([distance(sets[a], sets[b]) for a, b in combinations(row.tolist(), 2)]) for row in items]
    empty = Ragged.of([[0]] * len(items))
    np.testing.assert_allclose(METRICS["ild"](Lists(items, empty, empty, many), 5), expected, atol=1e-12)


@settings(deadline=None)
@given(batches(), st.integers(0, 3))
def test_a_hit_that_moves_up_never_costs(lists: Lists, position: int) -> None:
    swapped = lists.items.copy()
    up = lists.hits[:, position + 1] & ~lists.hits[:, position]
    swapped[up, position], swapped[up, position + 1] = lists.items[up, position + 1], lists.items[up, position]
    better = replace(lists, items=swapped)
    assert (score("ndcg", better)[up] > score("ndcg", lists)[up]).all()
    assert (score("mrr", better) >= score("mrr", lists)).all()
    for name in ("hr", "recall"):
        np.testing.assert_array_equal(score(name, better), score(name, lists))


@settings(deadline=None)
@given(batches(), st.sampled_from(["recall", "hr", "ild", "ild_embedding", "mgu", "dgu", "novelty", "entropy"]))
def test_metrics_of_sets_ignore_the_order(lists: Lists, name: str) -> None:
    backwards = replace(lists, items=lists.items[:, ::-1])
    np.testing.assert_allclose(score(name, backwards), score(name, lists), atol=1e-6)


def test_a_perfect_list_is_one_exactly() -> None:
    for k in range(1, 6):
        perfect = lists_of(make_catalog(), [0, 1, 2, 3, 4], list(range(k)), [5])
        assert score("ndcg", perfect)[0] == 1.0


def test_nothing_held_out_is_no_hit(catalog: Catalog) -> None:
    nothing = Lists(np.array([[0, MISS]], np.int32), Ragged.of([[]]), Ragged.of([[]]), catalog)
    assert [score_k2(name, nothing) for name in ("ndcg", "recall", "hr", "mrr")] == [0, 0, 0, 0]
    assert not nothing.history_shares.any()


def test_items_without_a_group_are_one_more_group() -> None:
    """Nobody gets away with showing what is in no group."""
    catalog = Catalog.build(
        list("01234567"), list("abcdefgh"), [["A"], ["A"], ["A"], ["B"], ["B"], [], [], []], np.ones(8)
    )
    items = np.array([[5, 6], [0, 5], [0, 1], [0, 3]], np.int32)
    lists = Lists(items, Ragged.of([[4]] * 4), Ragged.of([[2, 4], [2, 7], [2, 7], [2, 4]]), catalog)
    np.testing.assert_allclose(METRICS["mgu"](lists, 2), [(0.5 + 0.5 + 1) / 2, 0, (0.5 + 0.5) / 2, 0])
    np.testing.assert_allclose(METRICS["dgu"](lists, 2), [1.5, 0, 1, 0])
    result = METRICS["calibration"](lists, 2)
    np.testing.assert_allclose(result[[0, 1, 3]], [1, 0, 0], atol=1e-12)
    assert 0.4 < result[2] < 0.5  # one of two equal ones is not shown


def test_calibration_by_hand() -> None:
    catalog = make_catalog()
    groups = [catalog.groups[item].tolist() for item in range(len(catalog))]
    alone = {row[0]: item for item, row in enumerate(groups) if len(row) == 1}
    (_, one), (_, other) = list(alone.items())[:2]
    lists = Lists(
        np.array([[one, other], [one, one], [MISS, MISS]], np.int32),
        Ragged.of([[]] * 3),
        Ragged.of([[one, other]] * 3),
        catalog,
    )
    result = METRICS["calibration"](lists, 2)
    half = 0.5 * np.log(0.5 / (0.99 + 0.005)) + 0.5 * np.log(100)
    np.testing.assert_allclose(result, [0, half / np.log(100), 1], atol=1e-12)
