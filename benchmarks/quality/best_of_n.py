"""How a search at inference chooses among its samples when it has no held-out items, as nobody has at serving time.

By the reward without its held-out part; where nothing is left, by co-occurrence with the history. Evaluation imports
the function by its name, ``benchmarks.quality.best_of_n:cooccurrence``; it reads a run's data in :data:`DATA_FOLDER`.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benchmarks.quality import DATA_FOLDER
from blade_dist.batches import MISS
from blade_dist.catalog.catalog import Catalog
from blade_dist.data.bundle import load_data
from blade_dist.evaluation.baselines import similarities
from blade_dist.evaluation.top_items import occurrence
from blade_dist.rewards.lists import Lists

HELD_OUT = ("ndcg@", "recall@", "hr@", "mrr@")
"""How the metrics begin that look at held-out items."""
CHUNK = 1024
"""Lists that are scored at once: a row of their scores is as long as the catalog."""


def choice(weights: dict[str, float]) -> dict[str, float]:
    """What to select by, as ``evaluate.select_by``; functions of the user's are taken to look at held-out items."""
    seen = {name: weight for name, weight in weights.items() if not name.startswith(HELD_OUT) and ":" not in name}
    return seen or {"benchmarks.quality.best_of_n:cooccurrence": 1.0}


def cooccurrence(lists: Lists) -> NDArray[np.float64]:
    """``sum_i s(item i) / log2(i + 1)``, s = the sum of an item's similarities to the history's, ``[n]``; a miss is 0.

    The similarity is that of the co-occurrence baseline.
    """
    similarity = np.zeros(lists.items.shape)
    for start in range(0, len(lists), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(lists)))
        known = occurrence(lists.history.take(rows), len(lists.catalog))
        scores = (known @ _similar(lists.catalog)).toarray()
        similarity[rows] = np.take_along_axis(scores, np.maximum(lists.items[rows], 0).astype(np.int64), axis=1)
    return np.where(lists.items == MISS, 0.0, similarity) @ (1 / np.log2(np.arange(2, lists.items.shape[1] + 2)))


@cache
def _similar(catalog: Catalog) -> csr_matrix:
    sequences = load_data(Path(os.environ[DATA_FOLDER])).sequences
    return similarities(catalog, sequences.rows(np.arange(len(sequences))))
