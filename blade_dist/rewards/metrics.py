"""List-wise metrics, each from :class:`~blade_dist.rewards.lists.Lists` and a cut-off to float64 ``[n]``.

A position that is a miss counts as the worst that it could be, in every metric. Names are ``metric@k``. After a change
of a metric's value for some list, raise ``DEFINITIONS`` in ``composite.py``. The examples in the docstrings are run as
tests; :func:`~blade_dist.rewards.example.example` makes one list from its items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS
from blade_dist.errors import UserError, nearest
from blade_dist.rewards.item_features import group_bits, information, tail_items
from blade_dist.rewards.lists import Lists

CALIBRATION_MIX = 0.01
"""a of :func:`calibration`: keeps the logarithm finite."""

Scores = NDArray[np.float64]
Metric = Callable[[Lists, int], Scores]


def ndcg(lists: Lists, k: int) -> Scores:
    """``sum_i hit_i / log2(i + 1)`` over the best possible, ``sum_(i <= min(k, targets)) 1 / log2(i + 1)``.

    Hits at 1 and 3 with two targets: (1 + 0.5) / (1 + 0.631).

    >>> ndcg(example([4, 7, 2], targets=[4, 2]), 3).round(2)
    array([0.92])
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(lists.targets.lengths, k)]
    gain = np.zeros(len(lists))
    for position in range(k):  # one after another, as in ``best``: a perfect list is 1 exactly
        gain += lists.hits[:, position] * discount[position]
    return _ratio(gain, best)


def recall(lists: Lists, k: int) -> Scores:
    """Share of the held-out items that are in the first k.

    >>> recall(example([4, 7, 2], targets=[4, 1, 3, 5]), 3)
    array([0.25])
    """
    return _ratio(lists.hits[:, :k].sum(axis=1), lists.targets.lengths)


def hr(lists: Lists, k: int) -> Scores:
    """1 where the first k hold a hit, else 0.

    >>> hr(example([4, 7, 2], targets=[4, 2]), 3)
    array([1.])
    """
    return np.asarray(lists.hits[:, :k].any(axis=1), dtype=np.float64)


def mrr(lists: Lists, k: int) -> Scores:
    """1 / position of the first hit in the first k; 0 without one.

    >>> mrr(example([7, 4, 2], targets=[4, 2]), 3)
    array([0.5])
    """
    hits = lists.hits[:, :k]
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)


def ild(lists: Lists, k: int) -> Scores:
    """Mean distance of the k(k-1)/2 pairs, ``1 - |groups shared| / |groups of either|``; a pair with a miss is 0 apart.

    Two items that have no group are 0 apart. 0 at k = 1. Below, the pairs {a} and {a}, {a} and {ac}, {a} and {ac}:
    (0 + 0.5 + 0.5) / 3.

    >>> ild(example([0, 1, 2], groups=["a", "a", "ac"]), 3).round(2)
    array([0.33])
    """
    # groups are bits, so that |shared| is a popcount; all pairs that are equally far apart in the list are one slice
    bits = group_bits(lists.catalog)[lists.items[:, :k]]
    size = np.bitwise_count(bits).sum(axis=2, dtype=np.int32)
    valid = lists.valid[:, :k]
    total = np.zeros(len(lists))
    for apart in range(1, k):
        shared = np.bitwise_count(bits[:, apart:] & bits[:, :-apart]).sum(axis=2, dtype=np.int32)
        either = size[:, apart:] + size[:, :-apart] - shared
        both = valid[:, apart:] & valid[:, :-apart]
        total += ((either - shared) * both / np.maximum(either, 1)).sum(axis=1)
    return total / max(1, k * (k - 1) / 2)


def ild_embedding(lists: Lists, k: int) -> Scores:
    """As :func:`ild`, with the cosine distance ``(1 - cos) / 2`` of the items' embeddings: opposite items are 1 apart.

    >>> ild_embedding(example([0, 1, 2], embeddings=[[1, 0], [-1, 0], [1, 0]]), 3).round(2)
    array([0.67])

    Raises:
        UserError: the catalog has no embeddings.
    """
    if lists.catalog.embeddings is None:
        raise UserError("reward: ild_embedding needs item embeddings; the catalog has none (data.columns.embedding)")
    vectors = lists.catalog.embeddings[lists.items[:, :k]].astype(np.float32)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-12)
    distance = (1 - vectors @ vectors.transpose(0, 2, 1)) / 2
    valid = lists.valid[:, :k]
    counted = valid[:, :, None] & valid[:, None, :] & ~np.eye(k, dtype=bool)
    return np.where(counted, distance, 0.0).sum(axis=(1, 2), dtype=np.float64) / max(1, k * (k - 1))


def mgu(lists: Lists, k: int) -> Scores:
    """Mean group unfairness: ``mean_g |share of g in the list - share of g in the history|``; less is better.

    A miss is the worst: its 1/k of mass counts as one group more, of which the history has none. Items without a group
    are together another one, though the mean is over real groups. List all in a, history half a half b:
    (0.5 + 0.5) / 2.

    >>> mgu(example([0, 1], history=[0, 2], groups=["a", "a", "b"]), 2)
    array([0.5])
    """
    difference, missing = _differences(lists, k)
    return (np.abs(difference).sum(axis=1) + missing) / max(1, lists.catalog.n_groups)


def dgu(lists: Lists, k: int) -> Scores:
    """Spread of group unfairness: ``max_g d_g - min_g d_g``, d_g as in :func:`mgu`, signed; less is better.

    The mass of misses is added, so that an empty list (spread of the history, plus 1) is never better than a full one.
    List all in a, history half a half b: 0.5 - (-0.5).

    >>> dgu(example([0, 1], history=[0, 2], groups=["a", "a", "b"]), 2)
    array([1.])
    """
    difference, missing = _differences(lists, k)
    if not difference.shape[1]:
        return missing
    return difference.max(axis=1) - difference.min(axis=1) + missing


def novelty(lists: Lists, k: int) -> Scores:
    """Mean ``-log2`` of the item's share of the training interactions, over ``log2`` of their number: 0 to 1.

    A miss is 0. Of 1024 interactions the item has 32: 5 bits of 10.

    >>> novelty(example([0], popularity=[32, 992]), 1)
    array([0.5])
    """
    return information(lists.catalog)[lists.items[:, :k]].mean(axis=1)


def long_tail(lists: Lists, k: int) -> Scores:
    """Share of positions with an item outside the head (the items that make up 80 % of training interactions).

    A miss is not outside it.

    >>> long_tail(example([0, 1, 2], popularity=[80, 10, 10]), 3).round(2)
    array([0.67])
    """
    return tail_items(lists.catalog)[lists.items[:, :k]].mean(axis=1)


def entropy(lists: Lists, k: int) -> Scores:
    """Entropy of the list's group shares over ``log`` of the number of groups: 1 where all groups are equal.

    Mass in no group (misses, items without one) is counted with the list's largest group, which is what lowers the
    entropy most. Two of four positions in a, one in b, a miss: the entropy of shares 3/4 and 1/4.

    >>> entropy(example([0, 1, 2, -1], groups=["a", "a", "b"]), 4).round(2)
    array([0.81])
    """
    shares = lists.group_shares(k)
    if shares.shape[1] < 2:
        return np.zeros(len(lists))
    shares[np.arange(len(lists)), shares.argmax(axis=1)] += 1 - shares.sum(axis=1)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return (0.0 - (shares * logs).sum(axis=1)) / np.log(shares.shape[1])


def calibration(lists: Lists, k: int) -> Scores:
    """``sum_g p_g log(p_g / ((1 - a) q_g + a p_g)) / log(1 / a)``, a = 0.01, p of the history, q of the list.

    The KL divergence of Steck, "Calibrated Recommendations" (RecSys 2018), over its largest value; less is better. 0
    where the list shows the groups as the history does, 1 where it shows none of the history's. Items without a group
    are together one more. Nothing of one of two groups that are equal in the history:

    >>> calibration(example([0, 1], history=[0, 2], groups=["a", "a", "b"]), 2).round(2)
    array([0.43])
    """
    p, q = _shares(lists, k)
    mixed = (1 - CALIBRATION_MIX) * q + CALIBRATION_MIX * p
    ratio = np.divide(p, mixed, out=np.ones_like(p), where=p > 0)
    return (p * np.log(ratio)).sum(axis=1) / -np.log(CALIBRATION_MIX)


def expected_ndcg(lists: Lists, k: int) -> Scores:
    """``sum_i p_i / log2(i + 1)`` over the same sum for the ranker's own first k; p_i: its probability of item i.

    The NDCG to expect where the next item is drawn from the ranker, over the highest that a list can have: the ranking
    is 1. No held-out item is read. An item that stands there again, or that is not among the ranker's best, has p = 0.
    The second likeliest first: (.25 + .5 * .63) / (.5 + .25 * .63).

    >>> expected_ndcg(example([7, 4], ranker={4: 0.5, 7: 0.25, 2: 0.1}), 2).round(2)
    array([0.86])

    Raises:
        UserError: the lists come without a ranker.
    """
    return _expected(lists, 1 / np.log2(np.arange(2, k + 2)))


def expected_recall(lists: Lists, k: int) -> Scores:
    """``sum_i p_i`` over the same sum for the ranker's own first k, p_i as in :func:`expected_ndcg`.

    The likeliest and the third likeliest: (.5 + .1) / (.5 + .25).

    >>> expected_recall(example([2, 4], ranker={4: 0.5, 7: 0.25, 2: 0.1}), 2).round(2)
    array([0.8])

    Raises:
        UserError: the lists come without a ranker.
    """
    return _expected(lists, np.ones(k))


BY_RANKER = ("expected_ndcg", "expected_recall")
"""Metrics that read :attr:`~blade_dist.rewards.lists.Lists.ranker`."""

METRICS: dict[str, Metric] = {
    function.__name__: function
    for function in (
        *(ndcg, recall, hr, mrr, ild, ild_embedding, mgu, dgu, calibration, novelty, long_tail, entropy),
        *(expected_ndcg, expected_recall),
    )
}
"""Every metric by name. To add one: a function above, and its name here."""


def metric(name: str, k: int, setting: str = "reward.weights") -> tuple[Metric, int]:
    """The function and the cut-off of ``metric@cut``, which stands in ``setting``.

    Raises:
        UserError: an unknown metric (with the nearest name), or a cut-off beyond the list's ``k``.
    """
    base, _, cut = name.partition("@")
    if base not in METRICS:
        raise UserError(f"{setting} {name!r}: unknown metric; did you mean {nearest(base, METRICS)}@{k}?")
    return METRICS[base], cut_off(name, base, cut, k, setting)


def cut_off(name: str, base: str, cut: str, k: int, setting: str) -> int:
    """The number in ``cut``, the part of ``name`` behind ``base@``.

    Raises:
        UserError: it is not a number from 1 to ``k``; the message names ``setting``.
    """
    if not cut.isdecimal() or not 1 <= int(cut) <= k:
        raise UserError(f"{setting} {name!r}: write {base}@N with N from 1 to lists.k = {k}")
    return int(cut)


def _differences(lists: Lists, k: int) -> tuple[Scores, Scores]:
    """Signed share differences, of :func:`_shares`, and the share of misses ``[n]``."""
    known, shown = _shares(lists, k)
    return shown - known, 1 - lists.valid[:, :k].mean(axis=1)


def _shares(lists: Lists, k: int) -> tuple[Scores, Scores]:
    """``[n, groups]`` shares of the history and of the list; where the catalog has items without a group, these have a
    column more."""
    known, shown = lists.history_shares, lists.group_shares(k)
    if (lists.catalog.groups.lengths > 0).all():
        return known, shown
    # the further column is what the groups lack of the whole: all of a history, and the valid positions of a list
    wholes = (lists.history.lengths > 0, lists.valid[:, :k].mean(axis=1))
    known, shown = (
        np.column_stack([part, np.maximum(whole - part.sum(axis=1), 0.0)])
        for part, whole in zip((known, shown), wholes, strict=True)
    )
    return known, shown


def _expected(lists: Lists, discount: Scores) -> Scores:
    """The lists' discounted probability over that of the ranker's first items, as many as ``discount`` has."""
    if lists.ranker is None:
        raise UserError("expected_ndcg and expected_recall need a ranker's distribution; these lists come without one")
    found, best = lists.ranker.items, lists.ranker.items[:, : len(discount)]
    left = np.where(found == MISS, 0.0, np.exp(np.asarray(lists.ranker.scores, dtype=np.float64)))
    return _ratio(_gained(lists.items, found, left, discount), _gained(best, found, left, discount))


def _gained(items: NDArray, found: NDArray, probability: Scores, discount: Scores) -> Scores:
    """``sum_i discount_i * probability`` of the first items; one that comes again has nothing left."""
    left, total = probability.copy(), np.zeros(len(items))
    for position in range(min(len(discount), items.shape[1])):  # in this order for both, so that the ranking is 1
        here = (found == items[:, position, None]) & (found != MISS)
        total += discount[position] * (left * here).sum(axis=1)
        left[here] = 0.0
    return total


def _ratio(above: NDArray, below: NDArray) -> Scores:
    """``above / below``, 0 where ``below`` is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
