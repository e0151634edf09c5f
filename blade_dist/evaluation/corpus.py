"""Metrics over all lists together. Pure numpy."""

from __future__ import annotations

import numpy as np

from blade_dist.batches import MISS
from blade_dist.rewards.lists import Lists


def corpus_metrics(lists: Lists) -> dict[str, float]:
    """Coverage, Gini, entropy of the recommended items, MGU and DGU of the group shares, share of misses.

    - coverage: share of the catalog that is in any list;
    - gini: inequality of how often items are recommended, over the whole catalog, 0 = equal;
    - entropy: of the items' shares, over the logarithm of the catalog's size;
    - mgu, dgu: mean absolute, and spread of the, difference between the groups' shares in lists and in histories.
    """
    counts = np.bincount(lists.items[lists.items != MISS], minlength=len(lists.catalog)).astype(np.float64)
    total = max(1.0, counts.sum())
    shares = counts / total
    ordered = np.sort(shares)
    rank = np.arange(1, len(ordered) + 1)
    matrix = lists.catalog.group_matrix().astype(np.float64)
    known = np.bincount(lists.history.flat, minlength=len(lists.catalog)).astype(np.float64)
    difference = shares @ matrix - (known / max(1.0, known.sum())) @ matrix
    positive = shares[shares > 0]
    return {
        "coverage": float((counts > 0).mean()),
        "gini": float(((2 * rank - len(ordered) - 1) * ordered).sum() / len(ordered)) if counts.any() else 0.0,
        "entropy": float(-(positive * np.log(positive)).sum() / np.log(max(2, len(counts)))),
        "corpus_mgu": float(np.abs(difference).mean()) if len(difference) else 0.0,
        "corpus_dgu": float(np.ptp(difference)) if len(difference) else 0.0,
        "miss": float((lists.items == MISS).mean()),
    }
