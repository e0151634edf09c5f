"""Tables that are written batch after batch, and rows of their chunks, taken by their number in the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.store.files import whole_file


class Chunk(Protocol):
    """Rows that can be taken: :class:`~blade_dist.batches.Ragged`, :class:`~blade_dist.data.split.Views`."""

    def take(self, rows: NDArray[np.int64]) -> Ragged: ...


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[Sequence[pa.Array]]) -> int:
    """Writes an Arrow file atomically, a batch of columns after another; an empty one leaves no chunk.

    Returns:
        The number of rows.
    """
    rows = 0
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for columns in batches:
            if size := len(columns[0]):
                writer.write_batch(pa.record_batch(list(columns), schema=schema))
                rows += size
    return rows


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
