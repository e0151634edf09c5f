"""Recommenders that need no training and are hard to beat. Pure numpy and scipy."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from blade_dist.batches import ExcludeHistory, Prompts, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.rules import Rules
from blade_dist.evaluation.ease import MOST_ITEMS, ease_lists
from blade_dist.evaluation.successors import successor_lists
from blade_dist.evaluation.top_items import best_items, occurrence


def baseline_lists(
    catalog: Catalog,
    sequences: Ragged,
    validation: Prompts,
    prompts: Prompts,
    k: int,
    exclude_history: ExcludeHistory,
    rules: Rules | None = None,
) -> dict[str, NDArray[np.int32]]:
    """Lists of every baseline, int32 ``[n, k]``, by its name in tables; arguments as in :func:`ease_lists`.

    A catalog that is too large for EASE has none.
    """
    lists = {
        "popularity": popularity_lists(catalog, prompts, k, exclude_history, rules),
        "co-occurrence": cooccurrence_lists(catalog, sequences, prompts, k, exclude_history, rules),
        "successors": successor_lists(catalog, sequences, prompts, k, exclude_history, rules),
    }
    if len(catalog) <= MOST_ITEMS:
        lists["EASE"] = ease_lists(catalog, sequences, validation, prompts, k, exclude_history, rules)
    return lists


def popularity_lists(
    catalog: Catalog, prompts: Prompts, k: int, exclude_history: ExcludeHistory, rules: Rules | None = None
) -> NDArray[np.int32]:
    """The k most popular items of the training part, for everybody: int32 ``[n, k]``.

    Rules and misses as in :func:`~blade_dist.evaluation.top_items.best_items`.
    """
    nothing = csr_matrix((len(catalog), len(catalog)))
    return best_items(catalog, _all_equal(catalog), nothing, prompts, k, exclude_history, rules)


def cooccurrence_lists(
    catalog: Catalog,
    sequences: Ragged,
    prompts: Prompts,
    k: int,
    exclude_history: ExcludeHistory,
    rules: Rules | None = None,
) -> NDArray[np.int32]:
    """Items that occur with the history's items in the same users' training sequences: int32 ``[n, k]``.

    Score of item j: the sum of its :func:`similarities` to the history's items. Ties, rules and misses as in
    :func:`~blade_dist.evaluation.top_items.best_items`.
    """
    similar = similarities(catalog, sequences)
    return best_items(catalog, _all_equal(catalog), similar, prompts, k, exclude_history, rules)


def similarities(catalog: Catalog, sequences: Ragged) -> csr_matrix:
    """``[I, I]``: ``C_ij / sqrt(C_ii * C_jj)``, C_ij = users with both items; 0 for an item and itself.

    Args:
        catalog: the ``I`` items.
        sequences: a row per user: the training items, catalog indices.
    """
    seen = occurrence(sequences, len(catalog))
    together = (seen.T @ seen).tocsr()
    scale = diags(1 / np.sqrt(np.maximum(together.diagonal(), 1.0)))
    similar = (scale @ together @ scale).tocsr()
    similar.setdiag(0)
    return similar


def _all_equal(catalog: Catalog) -> partial[csr_matrix]:
    """Weighs every item of a history 1."""
    return partial(occurrence, items=len(catalog))
