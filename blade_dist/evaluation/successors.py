"""Counted successors: what other users took soon after the last items of a history. Pure numpy and scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from blade_dist.batches import ExcludeHistory, Prompts, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.followers import followers
from blade_dist.catalog.rules import Rules
from blade_dist.evaluation.top_items import best_items, recent

WINDOW = 10
"""Items after an item in a sequence that count as its successors."""

NEARER = 0.7
"""Of two successors, one item further away counts this much of the nearer one."""

LAST = 10
"""Items of the history that are looked at."""

DECAY = 0.7
"""An item of the history counts this much of the one after it."""


def successor_lists(
    catalog: Catalog,
    sequences: Ragged,
    prompts: Prompts,
    k: int,
    exclude_history: ExcludeHistory,
    rules: Rules | None = None,
) -> NDArray[np.int32]:
    """Items that followed the last items of the history in the training sequences: int32 ``[n, k]``.

    Score of item j: ``sum over the last LAST items i, at lag l = 0, 1, ..., of DECAY^l * S_ij``, S of
    :func:`successors`. Ties, rules and misses as in :func:`~blade_dist.evaluation.top_items.best_items`. The four
    constants were chosen on the validation items of two logs with a median of six items per user.

    Args:
        catalog: the ``I`` items.
        sequences: the users' training items, catalog indices, oldest first.
        prompts: ``n`` of them.
        k: positions of a list.
        exclude_history: as ``lists.exclude_history``.
        rules: what else a list may not hold.
    """
    similar = successors(sequences, len(catalog))
    return best_items(catalog, recent(LAST, DECAY, len(catalog)), similar, prompts, k, exclude_history, rules)


def successors(sequences: Ragged, items: int) -> csr_matrix:
    """``[I, I]``: ``S_ij = C_ij / sqrt(sum_j C_ij)``, C of :func:`~blade_dist.catalog.followers.followers`.

    The square root is between counts, by which items with many successors decide alone, and probabilities, by which an
    item that was seen once counts as much as one that was seen often.
    """
    counts = followers(sequences, items, WINDOW, NEARER)
    total = np.asarray(counts.sum(axis=1)).ravel()
    return (diags(1 / np.sqrt(np.where(total > 0, total, 1.0))) @ counts).tocsr()
