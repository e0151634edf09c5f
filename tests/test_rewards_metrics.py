"""List-wise metrics against by-hand values and independent libraries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
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

ITEMS = 12
BETTER_IF_LESS = {"mgu", "dgu"}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return make_catalog()


def make_catalog() -> Catalog:
    groups = Ragged.of([[i % 3] if i % 4 else [0, 2] for i in range(ITEMS)])
    rng = np.random.default_rng(0)
    return Catalog(
        item_ids=np.array([f"i{i}" for i in range(ITEMS)], dtype=object),
        titles=np.array([f"t{i}" for i in range(ITEMS)], dtype=object),
        groups=groups,
        group_names=["a", "b", "c"],
        popularity=np.arange(ITEMS, 0, -1) ** 2,
        embeddings=rng.normal(size=(ITEMS, 4)).astype(np.float32),
    )


@st.composite
def batches(draw: st.DrawFn, misses: bool = True) -> Lists:
    n, k = draw(st.integers(1, 4)), 5
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    items = np.stack([rng.permutation(ITEMS)[:k] for _ in range(n)]).astype(np.int32)
    if misses:
        items[rng.random(items.shape) < 0.3] = MISS
    targets = Ragged.of([rng.permutation(ITEMS)[: rng.integers(1, 5)] for _ in range(n)])
    history = Ragged.of([rng.permutation(ITEMS)[: rng.integers(1, 7)] for _ in range(n)])
    return Lists(items, targets, history, make_catalog())


def score(name: str, lists: Lists, k: int = 5) -> np.ndarray:
    function, cut = metric(f"{name}@{k}", 5)
    return function(lists, cut)


def lists_of(catalog: Catalog, items: list[int], targets: list[int], history: list[int]) -> Lists:
    return Lists(np.array([items], np.int32), Ragged.of([targets]), Ragged.of([history]), catalog)


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


@given(batches(), st.sampled_from(sorted(METRICS)), st.data())
def test_a_miss_is_never_better_than_the_worst_item(lists: Lists, name: str, data: st.DataObject) -> None:
    """Putting some item where a miss was can always be done without loss."""
    position = data.draw(st.integers(0, 4))
    lists.items[0, position] = MISS
    with_miss = score(name, lists)[0]
    others = set(lists.items[0].tolist())
    tried = []
    for item in range(ITEMS):
        if item not in others:
            filled = lists.items.copy()
            filled[0, position] = item
            tried.append(score(name, Lists(filled, lists.targets, lists.history, lists.catalog))[0])
    if name in BETTER_IF_LESS:
        assert max(tried) <= with_miss + 1e-9
    else:
        assert min(tried) >= with_miss - 1e-9 or name == "entropy"
        assert max(tried) >= with_miss - 1e-9


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
    ],
)
def test_wrong_names_are_explained(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metric(name, 5)
