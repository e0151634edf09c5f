"""Arrow files: written whole or not at all, read memory-mapped; ragged rows to list columns and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from blade_dist.batches import Ragged
from blade_dist.store.files import readable, whole_file


def write_table(table: pa.Table, path: Path) -> None:
    """Writes an Arrow IPC file atomically; missing folders are made."""
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """A memory-mapped table: columns are views of the file. What says where rows begin is looked at, no number is.

    Raises:
        FileNotFoundError: no such file.
        UserError: it is damaged.
    """
    with readable(path, f"delete {path.parent}, and make it again"):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
        return table


def ragged_to_arrow(rows: Ragged) -> pa.ListArray:
    """A list column; the values are not copied. At most 2**31 - 1 values."""
    return pa.ListArray.from_arrays(pa.array(rows.offsets.astype(np.int32)), pa.array(rows.flat))


def arrow_to_ragged(column: pa.ListArray | pa.ChunkedArray) -> Ragged:
    """Rows of a list column without nulls; the values of a single chunk are not copied."""
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks != 1:
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        else:
            column = column.chunk(0)
    offsets = column.offsets.to_numpy().astype(np.int64)
    # A slice of a column keeps all of its values: offsets may start above 0.
    flat = column.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]]
    return Ragged(flat, offsets - offsets[0])
