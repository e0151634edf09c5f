"""Metrics over all lists together. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS
from blade_dist.rewards.item_features import group_sums
from blade_dist.rewards.lists import Lists


def corpus_metrics(lists: Lists) -> dict[str, float]:
    """Coverage, Gini, entropy of the recommended items, MGU and DGU of the group shares, share of misses.

    - coverage: share of the catalog that is in any list; what is withdrawn can be in none, and does not count;
    - gini: inequality of how often items are recommended, over the whole catalog, 0 = equal;
    - entropy: of the items' shares, over the logarithm of the catalog's size;
    - corpus_mgu, corpus_dgu: mean absolute, and spread of the, difference between the groups' shares of all positions
      of all lists and of all items of all histories. As in a list's own ``mgu`` and ``dgu``, misses are the worst:
      their share counts as one group more, of which the histories have none;
    - miss: share of positions that are a miss.
    """
    counts = np.bincount(lists.items[lists.items != MISS], minlength=len(lists.catalog)).astype(np.float64)
    if lists.catalog.withdrawn is not None:
        counts = counts[~lists.catalog.withdrawn]
    shares = counts / max(1.0, counts.sum())
    positive = shares[shares > 0]
    miss = float((lists.items == MISS).mean())
    difference = _group_shares(lists, lists.items.reshape(-1)) - _group_shares(lists, lists.history.flat)
    return {
        "coverage": float((counts > 0).mean()),
        "gini": _gini(shares),
        "entropy": float((0.0 - (positive * np.log(positive)).sum()) / np.log(max(2, len(counts)))),
        "corpus_mgu": float(np.abs(difference).sum() + miss) / max(1, lists.catalog.n_groups),
        "corpus_dgu": (float(np.ptp(difference)) if len(difference) else 0.0) + miss,
        "miss": miss,
    }


def illegal_rates(invalid: NDArray[np.int32], duplicate: NDArray[np.int32], k: int) -> dict[str, float]:
    """The two kinds of misses, as shares of all positions.

    Args:
        invalid: int32, positions of each list that name no item, or are missing (``Rollouts.invalid``, any shape).
        duplicate: int32, positions of each list that repeat an earlier one or the history (``Rollouts.duplicate``).
        k: positions of a list.
    """
    return {"invalid": float(invalid.mean()) / k, "duplicate": float(duplicate.mean()) / k}


def _group_shares(lists: Lists, items: NDArray[np.int32]) -> NDArray[np.float64]:
    """``[groups]`` shares in one long row of items (misses are in none); items without a group have the last column."""
    sums = group_sums(lists.catalog, items, np.array([0, len(items)]))[0]
    bare = (items != MISS).sum() - sums.sum() if (lists.catalog.groups.lengths == 0).any() else 0.0
    return np.append(sums, bare) / max(1, len(items))


def _gini(shares: NDArray[np.float64]) -> float:
    """``sum_i (2i - n - 1) x_i / n``, x ascending and with sum 1 (or all 0, which is 0)."""
    rank = np.arange(1, len(shares) + 1)
    return float(((2 * rank - len(shares) - 1) * np.sort(shares)).sum() / len(shares))
