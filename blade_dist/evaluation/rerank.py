"""Re-rankers: lists of K items from a pool of candidates, for diversity or calibration at the cost of accuracy.

What is used where lists must be diverse and the model is left as it is. Each takes one item after another, the one with
the largest value among those that rules still allow; ``weight`` in [0, 1] is the trade-off, and at 0 a list is the
pool's first K. The relevance of a candidate is its score, scaled to 0 (the pool's lowest) to 1 (its highest), so that a
weight means the same for log-probs, logits and counts; ``utility`` reads probabilities instead. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.rules import Rules
from blade_dist.evaluation.dissimilarity import Distance, distance_of
from blade_dist.rewards.item_features import group_sums
from blade_dist.rewards.metrics import CALIBRATION_MIX
from blade_dist.settings import Reranker

CELLS_AT_ONCE = 2**20
"""Candidates x groups (calibration) or candidates x positions (DPP) that are held at once: 8 MiB."""

LEAST_RESIDUAL = 1e-10
"""Of a DPP: keeps the logarithm of an item that is equal to a chosen one finite."""


class Criterion(Protocol):
    """What the next item of ``n`` lists is chosen by."""

    def values(self) -> NDArray[np.float64]:
        """``[n, C]`` of each candidate, given what was taken."""

    def take(self, columns: NDArray[np.int64]) -> None:
        """These candidates, ``[n]``, are the lists' next items."""


class Mmr:
    """``(1 - w) * relevance + w * distance to the nearest item taken``: maximal marginal relevance (Carbonell and
    Goldstein, SIGIR 1998), with the distance for one minus the similarity."""

    def __init__(self, pool: Ranked, distance: Distance, weight: float) -> None:
        self._items, self._distance, self._weight = pool.items, distance, weight
        self._relevance = relevance(pool)
        self._nearest = np.ones(pool.items.shape)

    def values(self) -> NDArray[np.float64]:
        return (1 - self._weight) * self._relevance + self._weight * self._nearest

    def take(self, columns: NDArray[np.int64]) -> None:
        taken = self._items[np.arange(len(columns)), columns]
        self._nearest = np.minimum(self._nearest, self._distance(taken, self._items))


class Dpp:
    """The greedy most probable set of a determinantal point process (Chen, Zhang and Zhou, NeurIPS 2018).

    Maximises ``(1 - w) * sum of relevances + w * log det S`` over the items taken, ``S_ij = 1 - distance_ij``. The gain
    in ``log det S`` by a candidate is the logarithm of its residual, which one Cholesky row per item taken updates:
    of two items that are .5 apart, ``log(1 - .5^2)``.
    """

    def __init__(self, pool: Ranked, distance: Distance, k: int, weight: float) -> None:
        self._items, self._distance, self._weight = pool.items, distance, weight
        self._relevance = relevance(pool)
        self._residual = np.ones(pool.items.shape)
        self._rows = np.zeros((*pool.items.shape, k))
        self._taken = 0

    def values(self) -> NDArray[np.float64]:
        gain = np.log(np.maximum(self._residual, LEAST_RESIDUAL))
        return (1 - self._weight) * self._relevance + self._weight * gain

    def take(self, columns: NDArray[np.int64]) -> None:
        lists = np.arange(len(columns))
        similar = 1 - self._distance(self._items[lists, columns], self._items)
        known = self._rows[:, :, : self._taken]
        projected = (known @ known[lists, columns][:, :, None])[:, :, 0]
        scale = np.sqrt(np.maximum(self._residual[lists, columns], LEAST_RESIDUAL))
        row = (similar - projected) / scale[:, None]
        self._rows[:, :, self._taken] = row
        self._residual = self._residual - row**2
        self._taken += 1


class Utility:
    """``(1 - w) * E[NDCG] + w * ILD`` of the list, if the next item is drawn from the pool with its probabilities.

    A candidate at position j (from 1) adds ``p / log2(j + 1)`` and its distances to the items taken, over the
    ``k (k - 1) / 2`` pairs of the list. Where the model is unsure, a diverse list loses little NDCG, and where it is
    sure, much: this is what a relevance that is scaled for every user alike cannot say. p is the softmax of the scores.
    """

    def __init__(self, pool: Ranked, distance: Distance, k: int, weight: float) -> None:
        self._items, self._distance, self._weight = pool.items, distance, weight
        self._pairs = max(1.0, k * (k - 1) / 2)
        self._probability = probability(pool)
        self._distances = np.zeros(pool.items.shape)
        self._taken = 0

    def values(self) -> NDArray[np.float64]:
        gain = self._probability / np.log2(self._taken + 2)
        return (1 - self._weight) * gain + self._weight * self._distances / self._pairs

    def take(self, columns: NDArray[np.int64]) -> None:
        taken = self._items[np.arange(len(columns)), columns]
        self._distances += self._distance(taken, self._items)
        self._taken += 1


class Calibrated:
    """``(1 - w) * sum of relevances - w * KL(p || q)`` of the list so far with the candidate: Steck, "Calibrated
    Recommendations" (RecSys 2018).

    p and q are the groups' shares in history and list, and the KL is the metric ``calibration``, 0 to 1.
    """

    def __init__(self, pool: Ranked, catalog: Catalog, history: Ragged, weight: float) -> None:
        self._weight, self._relevance = weight, relevance(pool)
        wanted = _with_bare(group_sums(catalog, history.flat, history.offsets), history.lengths)
        wanted /= np.maximum(history.lengths, 1)[:, None]
        # a group that the history lacks adds nothing to the KL: only the columns of those that it has are kept
        width = max(1, int((wanted > 0).sum(axis=1).max(initial=0)))
        kept = np.argsort(-wanted, axis=1, kind="stable")[:, :width]
        self._wanted = np.take_along_axis(wanted, kept, axis=1)
        flat = pool.items.reshape(-1)
        mass = _with_bare(group_sums(catalog, flat, np.arange(len(flat) + 1)), flat != MISS)
        self._mass = np.take_along_axis(mass.reshape(*pool.items.shape, -1), kept[:, None, :], axis=2)
        self._sum, self._taken = np.zeros(self._wanted.shape), 0

    def values(self) -> NDArray[np.float64]:
        p = self._wanted[:, None, :]
        shown = (self._sum[:, None, :] + self._mass) / (self._taken + 1)
        mixed = (1 - CALIBRATION_MIX) * shown + CALIBRATION_MIX * p
        ratio = np.divide(p, mixed, out=np.ones_like(mixed), where=np.broadcast_to(p > 0, mixed.shape))
        divergence = (p * np.log(ratio)).sum(axis=2) / -np.log(CALIBRATION_MIX)
        return (1 - self._weight) * self._relevance - self._weight * divergence

    def take(self, columns: NDArray[np.int64]) -> None:
        self._sum += self._mass[np.arange(len(columns)), columns]
        self._taken += 1


def reranked_lists(
    catalog: Catalog,
    pool: Ranked,
    history: Ragged,
    k: int,
    trade_offs: Mapping[Reranker, Sequence[float]],
    rules: Rules | None = None,
    by_embedding: bool = False,
) -> dict[tuple[Reranker, float], NDArray[np.int32]]:
    """Lists of every re-ranker and weight, int32 ``[n, k]``.

    Where fewer than k candidates are left, the last positions are misses.

    Args:
        catalog: the items.
        pool: candidates of ``n`` prompts, without what the lists may not hold of the history.
        history: int32 catalog indices, ``n`` rows, which calibration follows.
        k: positions of a list.
        trade_offs: re-rankers to the weights, in [0, 1], that each is tried with.
        rules: what else a list may not hold.
        by_embedding: whether items are as far apart as in the metric ``ild_embedding``, and not as in ``ild``.
    """
    distance = distance_of(catalog, by_embedding)
    lists = {(name, weight): _misses(len(pool), k) for name, weights in trade_offs.items() for weight in weights}
    wide = pool.items.shape[1] * max(k, catalog.n_groups + 1)
    size = max(1, CELLS_AT_ONCE // max(1, wide))
    for start in range(0, len(pool), size):
        rows = np.arange(start, min(start + size, len(pool)))
        part, known = pool.take(rows), history.take(rows)
        criteria: dict[Reranker, Callable[[float], Criterion]] = {
            "mmr": partial(Mmr, part, distance),
            "dpp": partial(Dpp, part, distance, k),
            "utility": partial(Utility, part, distance, k),
            "calibrated": partial(Calibrated, part, catalog, known),
        }
        for (name, weight), found in lists.items():
            found[rows] = greedy(part, criteria[name](weight), k, rules)
    return lists


def usable(trade_offs: Mapping[Reranker, list[float]], catalog: Catalog) -> dict[Reranker, list[float]]:
    """The re-rankers that the catalog gives something to go by: groups, or for distances embeddings."""
    measured = catalog.n_groups or catalog.embeddings is not None
    return {name: w for name, w in trade_offs.items() if (catalog.n_groups if name == "calibrated" else measured)}


def greedy(pool: Ranked, criterion: Criterion, k: int, rules: Rules | None = None) -> NDArray[np.int32]:
    """One item after another by the criterion, among those that rules allow; the earlier column among equals."""
    lists, rows = _misses(len(pool), k), np.arange(len(pool))
    free = pool.items != MISS
    if rules is not None:
        free &= ~rules.excluded[pool.items]
    for position in range(min(k, pool.items.shape[1])):
        best = np.where(free, criterion.values(), -np.inf).argmax(axis=1)
        left = free[rows, best]
        lists[left, position] = pool.items[rows, best][left]
        free[rows, best] = False
        criterion.take(best)  # of a row with none left too: nothing of it is taken any more
        if rules is not None:
            free &= ~_over(pool.items, rules, lists[:, : position + 1])
    return lists


def relevance(pool: Ranked) -> NDArray[np.float64]:
    """``[n, C]`` scores from 0 to 1, 0 at misses and where all scores are equal."""
    valid = pool.items != MISS
    scores = np.where(valid, pool.scores, 0.0).astype(np.float64)
    low = np.where(valid, scores, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    high = np.where(valid, scores, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    return np.where(valid, scores - np.where(valid, low, 0.0), 0.0) / spread


def probability(pool: Ranked) -> NDArray[np.float64]:
    """``[n, C]`` softmax of the scores over each prompt's candidates; 0 at misses."""
    valid = pool.items != MISS
    scores = np.where(valid, pool.scores, -np.inf).astype(np.float64)
    likely = np.exp(scores - scores.max(axis=1, initial=-1e300, keepdims=True))
    return np.asarray(likely / np.maximum(likely.sum(axis=1, keepdims=True), 1e-300), np.float64)


def _over(items: NDArray[np.int32], rules: Rules, lists: NDArray[np.int32]) -> NDArray[np.bool_]:
    """``[n, C]`` whether an item is in a group that has all it may have in the list."""
    full = rules.full(lists)
    barred = np.zeros((len(items), len(rules.limit)), dtype=bool)
    barred[np.repeat(np.arange(len(full)), full.lengths), full.flat] = True
    row, column = np.nonzero(items != MISS)
    groups = rules.groups.take(items[row, column].astype(np.int64))
    place = np.repeat(np.arange(len(row)), groups.lengths)
    hit = place[barred[row[place], groups.flat]]
    over = np.zeros(items.shape, dtype=bool)
    over[row[hit], column[hit]] = True
    return over


def _with_bare(sums: NDArray[np.float64], whole: NDArray) -> NDArray[np.float64]:
    """Group sums with a column more: items without a group, together."""
    return np.column_stack([sums, np.maximum(whole - sums.sum(axis=1), 0.0)])


def _misses(n: int, k: int) -> NDArray[np.int32]:
    return np.full((n, k), MISS, dtype=np.int32)
