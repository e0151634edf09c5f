"""How often one item follows another one in the users' sequences. Pure numpy and scipy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from blade_dist.batches import Ragged


def followers(sequences: Ragged, items: int, window: int, nearer: float) -> csr_matrix:
    """``[I, I]``: ``C_ij = sum over places where j stands d items after i, d up to window, of nearer^(d - 1)``.

    Of the sequence a b c C has 1 for (a, b) and (b, c), and ``nearer`` for (a, c).
    """
    counts = csr_matrix((items, items))
    for first, second, weight in followed(sequences, window, nearer):
        pairs = (sequences.flat[first], sequences.flat[second])
        counts += csr_matrix((np.full(len(first), weight), pairs), shape=(items, items))
    return counts.tocsr()


def followed(
    sequences: Ragged, window: int, nearer: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], float]]:
    """For each distance up to the window: places of ``flat``, those so many items after them in the same row, and what
    such a pair counts."""
    row = np.repeat(np.arange(len(sequences)), sequences.lengths)
    for distance in range(1, window + 1):
        first = np.flatnonzero(row[distance:] == row[:-distance])
        yield first, first + distance, nearer ** (distance - 1)
