"""EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019): linear, in closed form. Pure numpy."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_matrix

from blade_dist.batches import ExcludeHistory, Prompts, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.rules import Rules
from blade_dist.evaluation.top_items import best_items, occurrence
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import ndcg

MOST_ITEMS = 10_000
"""Items of a catalog that it is fitted to: three matrices of items x items, 1.2 GB there."""

RIDGES = (30.0, 100.0, 300.0)
"""Weights of the penalty; the one with the best validation NDCG is taken."""


def ease_lists(
    catalog: Catalog,
    sequences: Ragged,
    validation: Prompts,
    prompts: Prompts,
    k: int,
    exclude_history: ExcludeHistory,
    rules: Rules | None = None,
) -> NDArray[np.int32]:
    """Items that :func:`ease_weights` predict from the history's: int32 ``[n, k]``.

    Ties, rules and misses as in :func:`~blade_dist.evaluation.top_items.best_items`.

    Args:
        catalog: the ``I`` items, at most :data:`MOST_ITEMS`.
        sequences: a row per user: the training items, catalog indices.
        validation: what the penalty is chosen on.
        prompts: ``n`` of them.
        k: positions of a list.
        exclude_history: as ``lists.exclude_history``.
        rules: what else a list may not hold.
    """
    seen = occurrence(sequences, len(catalog)).astype(np.float32)
    best = (-1.0, np.zeros((0, k), dtype=np.int32))
    for ridge in RIDGES:
        weights = ease_weights(seen, ridge)
        lists = partial(best_items, catalog, partial(occurrence, items=len(catalog)), weights, k=k)
        chosen = lists(prompts=validation, exclude_history=exclude_history, rules=rules)
        score = float(ndcg(Lists(chosen, validation.targets, validation.history, catalog), k).sum())
        if score > best[0]:
            best = (score, lists(prompts=prompts, exclude_history=exclude_history, rules=rules))
    return best[1]


def ease_weights(seen: csr_matrix, ridge: float) -> NDArray[np.float32]:
    """float32 ``[I, I]``: B that minimises ``|X - X B|^2 + ridge * |B|^2`` with a diagonal of 0.

    ``B_ij = -P_ij / P_jj`` off the diagonal, ``P = (X'X + ridge)^-1``.

    Args:
        seen: X, float32 ``[users, I]``, 1 where the user has the item.
        ridge: weight of the penalty.
    """
    users, items = seen.shape
    if users < items:  # Woodbury: the smaller of the two products is inverted
        inner = _inverse(seen @ seen.T, ridge)
        inverse = -(seen.T @ (seen.T @ inner).T)
        inverse[np.diag_indices(items)] += 1.0
        inverse /= ridge
    else:
        inverse = _inverse(seen.T @ seen, ridge)
    weights: NDArray[np.float32] = inverse
    weights /= -np.diag(inverse).copy()
    weights[np.diag_indices(items)] = 0.0
    return weights


def _inverse(gram: csr_matrix, ridge: float) -> NDArray[np.float32]:
    """Of ``gram + ridge``, symmetric and positive, by Cholesky: half the work of a general inverse."""
    dense = gram.toarray(order="F")
    dense[np.diag_indices(len(dense))] += np.float32(ridge)
    factor, _ = spotrf(dense, lower=1, overwrite_a=1)
    lower, _ = spotri(factor, lower=1, overwrite_c=1)
    whole = np.tril(lower)  # above the diagonal LAPACK leaves what was there
    whole += np.tril(lower, -1).T
    return np.ascontiguousarray(whole)
