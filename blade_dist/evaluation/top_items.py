"""The best items for each prompt by a score that is a sum over the history's items. Pure numpy and scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from blade_dist.batches import MISS, ExcludeHistory, Prompts, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.rules import Rules

SCORES_AT_ONCE = 2**18
"""Scores (prompt x item) that are held at once: 2 MiB, which stay in a core's cache. 128 MiB take twice the time."""

DECIMALS = 9
"""Decimals of a score that count: scores that differ by rounding errors alone are equal, on every processor."""

Weigh = Callable[[Ragged], csr_matrix]
"""Histories (``n`` rows of catalog indices, oldest first) to the weights of their items, ``[n, I]``."""


def best_items(
    catalog: Catalog,
    weigh: Weigh,
    similar: csr_matrix | NDArray[np.float32],
    prompts: Prompts,
    k: int,
    exclude_history: ExcludeHistory,
    rules: Rules | None = None,
) -> NDArray[np.int32]:
    """The k items j with the largest ``sum_i weight_i * similar_ij`` over the history's items i: int32 ``[n, k]``.

    Equal scores are ordered by popularity, equally popular items as in the catalog. Items that ``exclude_history``
    names are left out, and so is an item that would break a rule; where fewer than k items remain, the last positions
    are misses.

    Args:
        catalog: the ``I`` items.
        weigh: what the items of a history count.
        similar: ``[I, I]``, rows the history's items.
        prompts: ``n`` of them.
        k: positions of a list.
        exclude_history: as ``lists.exclude_history``.
        rules: what else a list may not hold.
    """
    lists = np.full((len(prompts), k), MISS, dtype=np.int32)
    by_popularity = np.argsort(-catalog.popularity, kind="stable")
    # columns in order of popularity: among equal scores argmax takes the first one
    column_of = np.argsort(by_popularity)
    similar = similar[:, by_popularity]
    if not isinstance(similar, csr_matrix):
        similar = np.ascontiguousarray(similar)  # else scipy copies all of it for each product
    size = max(1, SCORES_AT_ONCE // len(catalog))
    for start in range(0, len(prompts), size):
        rows = np.arange(start, min(start + size, len(prompts)))
        part = prompts.take(rows)
        scores = _rounded(weigh(part.history).astype(similar.dtype) @ similar)
        excluded = part.excluded(exclude_history)
        scores[np.repeat(np.arange(len(rows)), excluded.lengths), column_of[excluded.flat]] = -np.inf
        lists[rows] = _first_largest(scores, by_popularity, k, rules)
    return lists


def occurrence(rows: Ragged, items: int) -> csr_matrix:
    """0/1 matrix ``[rows, items]``: whether the row holds the item."""
    # a copy, as sum_duplicates sorts each row where it stands
    matrix = csr_matrix((np.ones(len(rows.flat)), rows.flat.copy(), rows.offsets), shape=(len(rows), items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def recent(last: int, decay: float, items: int) -> Weigh:
    """Weighs the last item of a history 1, the one before it ``decay``, ..., the ``last``-th last ``decay^(last - 1)``,
    and earlier ones 0. An item that is there more than once has the sum."""

    def weigh(history: Ragged) -> csr_matrix:
        lag = np.repeat(history.offsets[1:], history.lengths) - 1 - np.arange(len(history.flat))
        weights = np.where(lag < last, decay ** np.minimum(lag, last), 0.0)
        return csr_matrix((weights, history.flat, history.offsets), shape=(len(history), items))

    return weigh


def _rounded(scores: csr_matrix | NDArray) -> NDArray[np.float64]:
    """Dense, and equal where they should be."""
    if isinstance(scores, csr_matrix):
        scores.data = scores.data.round(DECIMALS)
        return np.asarray(scores.toarray())
    return np.asarray(scores, dtype=np.float64)


def _first_largest(
    scores: NDArray[np.float64], items: NDArray[np.int64], k: int, rules: Rules | None
) -> NDArray[np.int32]:
    """The k items of the largest scores in each row, the earlier column among equals; overwrites ``scores``."""
    lists = np.full((len(scores), k), MISS, dtype=np.int32)
    rows = np.arange(len(scores))
    if rules is not None:
        scores[:, rules.excluded[items]] = -np.inf
        column_of = np.argsort(items)
    for position in range(min(k, scores.shape[1])):
        best = scores.argmax(axis=1)
        left = scores[rows, best] > -np.inf
        lists[left, position] = items[best[left]]
        scores[rows, best] = -np.inf
        if rules is not None:  # a group that has all it may have takes its other items out
            full = rules.full(lists[:, : position + 1])
            over = rules.members.take(full.flat)
            owner = np.repeat(np.repeat(rows, full.lengths), over.lengths)
            scores[owner, column_of[over.flat]] = -np.inf
    return lists
