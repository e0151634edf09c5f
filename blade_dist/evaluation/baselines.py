"""Recommenders that need no model and are hard to beat: popularity and item co-occurrence. Pure numpy / scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from blade_dist.batches import Prompts, Ragged
from blade_dist.catalog.catalog import Catalog

BATCH = 4096
"""Prompts that are scored at once."""


def popularity_lists(catalog: Catalog, prompts: Prompts, k: int, exclude_history: bool) -> NDArray[np.int32]:
    """The k most popular items of the training part, for everybody: int32 ``[n, k]``."""

    def scores(part: Prompts) -> NDArray[np.float64]:
        return np.tile(catalog.popularity.astype(np.float64), (len(part), 1))

    return _top(scores, prompts, k, exclude_history)


def cooccurrence_lists(
    catalog: Catalog, train: Prompts, prompts: Prompts, k: int, exclude_history: bool
) -> NDArray[np.int32]:
    """Items that occur with the history's items in the same users' training sequences: int32 ``[n, k]``.

    Score of item j: ``sum_(i in history) C_ij / sqrt(C_ii * C_jj)``, C_ij = users with both. A user's training
    sequence is the history and targets of the latest window (the last of the user's rows).
    """
    last = len(train) - 1 - np.unique(train.user[::-1], return_index=True)[1]
    seen = _user_items(Ragged.concat([train.history.take(last), train.targets.take(last)]), len(last), len(catalog))
    together = (seen.T @ seen).toarray().astype(np.float64)
    own = np.sqrt(np.maximum(together.diagonal(), 1.0))
    similar = together / own[:, None] / own[None, :]
    np.fill_diagonal(similar, 0.0)

    def scores(part: Prompts) -> NDArray[np.float64]:
        return np.asarray(_user_items(part.history, len(part), len(catalog)) @ similar)

    return _top(scores, prompts, k, exclude_history)


def _user_items(rows: Ragged, users: int, items: int) -> csr_matrix:
    """0/1 matrix ``[users, items]``; ``rows`` may hold several blocks of ``users`` rows."""
    user = np.repeat(np.arange(len(rows)) % users, rows.lengths)
    matrix = csr_matrix((np.ones(len(user)), (user, rows.flat)), shape=(users, items))
    matrix.data[:] = 1.0
    return matrix


def _top(scores, prompts: Prompts, k: int, exclude_history: bool) -> NDArray[np.int32]:  # type: ignore[no-untyped-def]
    tops = []
    for start in range(0, len(prompts), BATCH):
        part = prompts.take(np.arange(start, min(start + BATCH, len(prompts))))
        values = scores(part)
        if exclude_history:
            values[np.repeat(np.arange(len(part)), part.history.lengths), part.history.flat] = -np.inf
        tops.append(np.argsort(-values, axis=1, kind="stable")[:, :k])
    return np.concatenate(tops).astype(np.int32)
