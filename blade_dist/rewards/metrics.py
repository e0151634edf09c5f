"""List-wise metrics, each from :class:`~blade_dist.rewards.lists.Lists` and a cut-off to float64 ``[n]``.

A position that is a miss counts as the worst that it could be, in every metric. Names are ``metric@k``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.rewards.lists import Lists

Scores = NDArray[np.float64]
Metric = Callable[[Lists, int], Scores]

HEAD_SHARE = 0.8
"""The head is the most popular items that make up this share of the training interactions."""


def ndcg(lists: Lists, k: int) -> Scores:
    """``sum_i hit_i / log2(i + 1)`` over the best possible, ``sum_(i <= min(k, targets)) 1 / log2(i + 1)``.

    Hits at 1 and 3 with two targets, k = 3: (1 + 0.5) / (1 + 0.631) = 0.92.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(lists.targets.lengths, k)]
    return _ratio(np.asarray(lists.hits[:, :k] @ discount), best)


def recall(lists: Lists, k: int) -> Scores:
    """Share of the held-out items that are in the first k: one of four is 0.25."""
    return _ratio(lists.hits[:, :k].sum(axis=1), lists.targets.lengths)


def hr(lists: Lists, k: int) -> Scores:
    """1 where the first k hold a hit, else 0."""
    return np.asarray(lists.hits[:, :k].any(axis=1), dtype=np.float64)


def mrr(lists: Lists, k: int) -> Scores:
    """1 / position of the first hit in the first k: a first hit at 2 is 0.5; 0 without one."""
    hits = lists.hits[:, :k]
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def ild(lists: Lists, k: int) -> Scores:
    """Mean distance of the k(k-1)/2 pairs, ``1 - |groups shared| / |groups of either|``; a pair with a miss is 0 apart.

    Two items of one same group are 0 apart, of different groups 1. 0 at k = 1.
    """
    has = (lists.group_mass[:, :k] > 0).astype(np.float32)
    shared = has @ has.transpose(0, 2, 1)
    size = has.sum(axis=2)
    either = size[:, :, None] + size[:, None, :] - shared
    return _mean_pairs(lists, k, 1 - _ratio(shared, either, empty=1.0))


def ild_embedding(lists: Lists, k: int) -> Scores:
    """As :func:`ild`, with the cosine distance ``(1 - cos) / 2`` of the items' embeddings."""
    if lists.catalog.embeddings is None:
        raise UserError("reward: ild_embedding needs item embeddings; the catalog has none (data.columns.embedding)")
    vectors = lists.catalog.embeddings[lists.items[:, :k]].astype(np.float32)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-12)
    return _mean_pairs(lists, k, (1 - vectors @ vectors.transpose(0, 2, 1)) / 2)


def mgu(lists: Lists, k: int) -> Scores:
    """Mean group unfairness: ``mean_g |share of g in the list - share of g in the history|``; less is better.

    A miss is the worst: its 1/k of mass counts as one group more, of which the history has none.
    List all in A, history half A half B: (0.5 + 0.5) / 2 = 0.5.
    """
    difference, missing = _differences(lists, k)
    return (np.abs(difference).sum(axis=1) + missing) / max(1, lists.catalog.n_groups)


def dgu(lists: Lists, k: int) -> Scores:
    """Spread of group unfairness: ``max_g d_g - min_g d_g``, d_g as in :func:`mgu`, signed; less is better.

    The mass of misses is added, so that an empty list (spread of the history, plus 1) is never better than a full one.
    """
    difference, missing = _differences(lists, k)
    if not difference.shape[1]:
        return missing
    return difference.max(axis=1) - difference.min(axis=1) + missing


def novelty(lists: Lists, k: int) -> Scores:
    """Mean ``-log2`` of the item's share of the training interactions, over ``log2`` of their number: 0 to 1."""
    counts = np.maximum(lists.catalog.popularity, 1)
    total = max(2, int(counts.sum()))
    bits = np.append(-np.log2(counts / total) / np.log2(total), 0.0)
    return bits[lists.items[:, :k]].mean(axis=1)


def long_tail(lists: Lists, k: int) -> Scores:
    """Share of positions with an item outside the head (the items that make up 80 % of training interactions)."""
    tail = np.append(~head_items(lists.catalog), False)
    return tail[lists.items[:, :k]].mean(axis=1)


def entropy(lists: Lists, k: int) -> Scores:
    """Entropy of the list's group shares over ``log`` of the number of groups: 1 where all groups are equal."""
    shares = lists.group_mass[:, :k].sum(axis=1) / k
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, -shares * np.log(shares), 0.0)
    return terms.sum(axis=1).astype(np.float64) / np.log(max(2, lists.catalog.n_groups))


METRICS: dict[str, Metric] = {
    function.__name__: function
    for function in (ndcg, recall, hr, mrr, ild, ild_embedding, mgu, dgu, novelty, long_tail, entropy)
}
"""Every metric by name. To add one: a function above, and its name here."""


def metric(name: str, k: int, setting: str = "reward.weights") -> tuple[Metric, int]:
    """The function and the cut-off of ``metric@cut``, which stands in ``setting``.

    Raises:
        UserError: an unknown metric (with the nearest name), or a cut-off beyond the list's ``k``.
    """
    base, _, cut = name.partition("@")
    if base not in METRICS:
        near = difflib.get_close_matches(base, METRICS, n=1, cutoff=0.0)[0]
        raise UserError(f"{setting} {name!r}: unknown metric; did you mean {near}@{k}?")
    if not cut.isdigit() or not 1 <= int(cut) <= k:
        raise UserError(f"{setting} {name!r}: write {base}@N with N from 1 to lists.k = {k}")
    return METRICS[base], int(cut)


def head_items(catalog: Catalog) -> NDArray[np.bool_]:
    """``[I]`` whether an item is in the head."""
    order = np.argsort(-catalog.popularity, kind="stable")
    before = np.cumsum(catalog.popularity[order]) - catalog.popularity[order]
    head = np.zeros(len(catalog), dtype=bool)
    head[order[before < HEAD_SHARE * catalog.popularity.sum()]] = True
    return head


def _differences(lists: Lists, k: int) -> tuple[Scores, Scores]:
    """Signed share differences ``[n, groups]``, and the share of misses ``[n]``."""
    shares = lists.group_mass[:, :k].sum(axis=1, dtype=np.float64) / k
    return shares - lists.history_shares, 1 - lists.valid[:, :k].mean(axis=1)


def _mean_pairs(lists: Lists, k: int, distance: NDArray) -> Scores:
    valid = lists.valid[:, :k]
    both = valid[:, :, None] & valid[:, None, :]
    both[:, np.arange(k), np.arange(k)] = False
    pairs = k * (k - 1)
    return np.where(both, distance, 0.0).sum(axis=(1, 2), dtype=np.float64) / max(1, pairs)


def _ratio(above: NDArray, below: NDArray, empty: float = 0.0) -> NDArray[np.float64]:
    """``above / below``, ``empty`` where ``below`` is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), empty, dtype=np.float64), where=below > 0)
