"""What may be trained on of every user: a memory-mapped Arrow file."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.batches import Ragged, offsets_of
from blade_dist.data.chunks import checked_index, take_rows, write_batches
from blade_dist.errors import UserError
from blade_dist.store.arrow import arrow_to_ragged, ragged_to_arrow, read_table
from blade_dist.store.fingerprint import fingerprint_file

_SCHEMA = pa.schema([("user", pa.string()), ("items", pa.list_(pa.int32()))])


def write_sequences(path: Path, batches: Iterable[tuple[pa.Array, Ragged]]) -> int:
    """Writes (users, items), batch after batch and atomically.

    Returns:
        The number of users.
    """
    return write_batches(path, _SCHEMA, ([users, ragged_to_arrow(items)] for users, items in batches))


class SequenceTable:
    """The training part of every user who has two items or more there: catalog indices, oldest first.

    No item at or after a user's training end is in it; with ``global_time`` the end is the same point in time for all.
    Nor is the last item of a training part in it where ``train.prompts_from`` keeps it for the alignment.
    """

    def __init__(self, path: Path, table: pa.Table) -> None:
        self._path = path
        self._users = table.column("user")
        self._items = [arrow_to_ragged(chunk.column("items")) for chunk in table.to_batches()]
        self._first = offsets_of([len(rows) for rows in self._items])

    @classmethod
    def load(cls, path: Path) -> SequenceTable:
        """Maps the file; nothing is copied before it is read.

        Raises:
            UserError: data that another version wrote, without the file or with other columns.
        """
        table = read_table(path) if path.is_file() else None
        if table is None or table.schema != _SCHEMA:
            there = "it is missing" if table is None else f"columns {', '.join(table.column_names)}"
            raise UserError(
                f"{path}: written by another version of blade_dist ({there}; here {', '.join(_SCHEMA.names)}): "
                f"delete {path.parent} and run the data stage again"
            )
        return cls(path, table)

    def __len__(self) -> int:
        return int(self._first[-1])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """``[U]`` items of each user; reads no item."""
        return np.concatenate([np.zeros(0, np.int64), *(rows.lengths for rows in self._items)])

    def rows(self, index: NDArray[np.int64]) -> Ragged:
        """int32 catalog indices of the given users, oldest first, in the given order.

        Raises:
            IndexError: an index that is negative or not below the number of users.
        """
        return take_rows(self._items, self._first, checked_index(index, len(self), "users"))

    def of_user(self, user: str) -> NDArray[np.int64]:
        """The user's row, or none."""
        return pc.indices_nonzero(pc.equal(self._users, user)).to_numpy().astype(np.int64)

    def longest(self, tokens: NDArray[np.int64], items: int) -> int:
        """Most tokens of ``items`` items of a user that follow each other; ``tokens``: ``[I]`` of each catalog item."""
        most = 0
        for rows in self._items:
            before = offsets_of(tokens[rows.flat])
            start = np.arange(len(rows.flat))
            stop = np.minimum(start + items, np.repeat(rows.offsets[1:], rows.lengths))
            most = max(most, int((before[stop] - before[start]).max(initial=0)))
        return most

    def fingerprint(self) -> str:
        """Equal files, equal fingerprint."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return fingerprint_file(self._path)
