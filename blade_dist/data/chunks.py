"""Rows of a column that is stored in chunks, taken by their number in the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged


class Chunk(Protocol):
    """Rows that can be taken: :class:`~blade_dist.batches.Ragged`, :class:`~blade_dist.data.split.Views`."""

    def take(self, rows: NDArray[np.int64]) -> Ragged: ...


def take_rows(chunks: Sequence[Chunk], first: NDArray[np.int64], index: NDArray[np.int64]) -> Ragged:
    """The given rows, in the given order; ``first``: ``[chunks + 1]`` number of each chunk's first row."""
    # Rows are taken chunk by chunk, so that each chunk is looked at once; ``back`` undoes that order.
    chunk = np.searchsorted(first, index, side="right") - 1
    order = np.argsort(chunk, kind="stable")
    parts = [chunks[number].take(index[chunk == number] - first[number]) for number in np.unique(chunk)]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Ragged.concat(parts).take(back) if parts else Ragged.of([])


def checked_index(index: NDArray[np.int64], size: int, what: str) -> NDArray[np.int64]:
    """The index as int64.

    Raises:
        IndexError: one that is negative or not below ``size``.
    """
    index = np.asarray(index, dtype=np.int64)
    if len(index) and not 0 <= index.min() <= index.max() < size:
        raise IndexError(f"{what} 0 to {size - 1}, not {index.min()} to {index.max()}")
    return index
