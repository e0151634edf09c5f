"""Which positions of a list count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.rules import Rules


def mask_illegal(
    items: NDArray[np.int32], excluded: Ragged, rules: Rules | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Turns repeated items, excluded ones and what breaks a rule into misses.

    With item 7 excluded, the list 3 3 MISS 7 5 becomes 3 MISS MISS MISS 5: one miss on input, two lost.

    Args:
        items: int32 ``[n, K]`` catalog indices or :data:`MISS`.
        excluded: int32 item indices, a row for each list, or for each group of as many lists that follow each other;
            such an item counts as a repeated one.
        rules: over catalog indices.

    Returns:
        The masked items int32 ``[n, K]``; positions that were a miss on input, int32 ``[n]``; positions that repeat
        an earlier one, or are excluded, or break a rule, int32 ``[n]``.
    """
    n, k = items.shape
    written = items != MISS
    # A repeated miss counts as repeated here too; it stays a miss, and ``lost`` leaves it out.
    earlier = np.tri(k, k=-1, dtype=bool)
    repeated = ((items[:, :, None] == items[:, None, :]) & earlier).any(axis=2)
    if len(excluded.flat):
        # One number for each (row, item) pair, so that one look-up serves all rows. A miss, -1, gives the last pair of
        # the row before, which does no harm either.
        width = int(max(items.max(initial=0), excluded.flat.max())) + 1
        rows = np.arange(len(excluded), dtype=np.int64)
        pairs = np.repeat(rows, excluded.lengths) * width + excluded.flat
        repeated |= np.isin(rows.repeat(n // len(rows))[:, None] * width + items, pairs)
    masked = np.where(repeated, MISS, items).astype(np.int32)
    if rules is not None:
        masked = rules.keep(masked)
    lost = written & (masked == MISS)
    return masked, (~written).sum(axis=1, dtype=np.int32), lost.sum(axis=1, dtype=np.int32)
