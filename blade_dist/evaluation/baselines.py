"""Recommenders that need no model and are hard to beat: popularity and item co-occurrence. Pure numpy, scipy, arrow."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, vstack

from blade_dist.batches import MISS, ExcludeHistory, Prompts, Ragged, offsets_of
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.rules import Rules

SCORES_AT_ONCE = 2**24
"""Scores (prompt x item) that are held at once: 128 MiB."""

PAIRS_AT_ONCE = 2**22
"""(user, item) pairs of training rows, repeats among them, that are counted at once."""

DECIMALS = 9
"""Decimals of a score that count: scores that differ by rounding errors alone are equal, on every processor."""


def popularity_lists(
    catalog: Catalog, prompts: Prompts, k: int, exclude_history: ExcludeHistory, rules: Rules | None = None
) -> NDArray[np.int32]:
    """The k most popular items of the training part, for everybody: int32 ``[n, k]``.

    Equally popular items come in catalog order. Items that ``exclude_history`` names are left out, and so is an item
    that would break a rule; where fewer than k items remain, the last positions are misses.
    """
    nothing = csr_matrix((len(catalog), len(catalog)))
    return _most_similar(catalog, nothing, prompts, k, exclude_history, rules)


def cooccurrence_lists(
    catalog: Catalog,
    train: Prompts,
    prompts: Prompts,
    k: int,
    exclude_history: ExcludeHistory,
    rules: Rules | None = None,
) -> NDArray[np.int32]:
    """Items that occur with the history's items in the same users' training prompts: int32 ``[n, k]``.

    Score of item j: the sum of its :func:`similarities` to the history's items. Equal scores, 0 among them, are
    ordered by popularity; rules and misses as in :func:`popularity_lists`.
    """
    return _most_similar(catalog, similarities(catalog, train), prompts, k, exclude_history, rules)


def similarities(catalog: Catalog, train: Prompts) -> csr_matrix:
    """``[I, I]``: ``C_ij / sqrt(C_ii * C_jj)``, C_ij = users with both items; 0 for an item and itself.

    A user has the items of the histories and targets of all of the user's rows, each once: what a policy that trains on
    every row is shown.
    """
    seen = _seen(train, len(catalog))
    together = (seen.T @ seen).tocsr()
    scale = diags(1 / np.sqrt(np.maximum(together.diagonal(), 1.0)))
    similar = (scale @ together @ scale).tocsr()
    similar.setdiag(0)
    return similar


def _seen(train: Prompts, items: int) -> csr_matrix:
    """0/1 matrix ``[users, items]``: what is in any of a user's rows."""
    # rows of one user need not stand together: sorted by user, a block of rows holds all that its users have
    user = pa.array(train.user, pa.large_string()).dictionary_encode().indices.to_numpy()
    order = np.argsort(user, kind="stable")
    first_row = offsets_of(np.bincount(user))
    pairs = np.cumsum(np.bincount(user, train.history.lengths + train.targets.lengths))
    first_user = np.flatnonzero(np.diff(pairs // PAIRS_AT_ONCE, prepend=-1))
    parts = [csr_matrix((0, items))]
    for start, stop in pairwise([*first_user, len(pairs)]):  # no user is in two parts
        rows = order[first_row[start] : first_row[stop]]
        known = Ragged.concat([train.history.take(rows), train.targets.take(rows)])
        parts.append(occurrence(known, np.tile(user[rows] - start, 2), stop - start, items))
    return vstack(parts, format="csr")


def _most_similar(
    catalog: Catalog,
    similar: csr_matrix,
    prompts: Prompts,
    k: int,
    exclude_history: ExcludeHistory,
    rules: Rules | None,
) -> NDArray[np.int32]:
    """The k items with the largest sum of similarities ``[I, I]`` to the history, equals by popularity."""
    lists = np.full((len(prompts), k), MISS, dtype=np.int32)
    by_popularity = np.argsort(-catalog.popularity, kind="stable")
    size = max(1, SCORES_AT_ONCE // len(catalog))
    for start in range(0, len(prompts), size):
        rows = np.arange(start, min(start + size, len(prompts)))
        part = prompts.take(rows)
        known, excluded = (
            occurrence(items, np.arange(len(rows)), len(rows), len(catalog))
            for items in (part.history, part.excluded(exclude_history))
        )
        scores = (known @ similar).toarray().round(DECIMALS)
        scores[excluded.nonzero()] = -np.inf
        # columns in order of popularity: among equal scores argmax takes the first one
        lists[rows] = _first_largest(scores[:, by_popularity], by_popularity, k, rules)
    return lists


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


def occurrence(rows: Ragged, owners: NDArray[np.int64], n: int, items: int) -> csr_matrix:
    """0/1 matrix ``[n, items]``; ``owners`` says whose each ragged row is."""
    pairs = (np.repeat(owners, rows.lengths), rows.flat)
    matrix = csr_matrix((np.ones(len(rows.flat)), pairs), shape=(n, items))
    matrix.data[:] = 1.0
    return matrix
