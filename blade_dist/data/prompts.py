"""The prompts of one split: a memory-mapped Arrow file."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Prompts, Ragged, offsets_of
from blade_dist.catalog.codec import Codec
from blade_dist.data.chunks import checked_index, take_rows, write_batches
from blade_dist.data.split import Views
from blade_dist.errors import UserError
from blade_dist.store.arrow import arrow_to_ragged, ragged_to_arrow, read_table
from blade_dist.store.fingerprint import fingerprint_file

_ITEMS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    [("user", pa.string()), ("history", _ITEMS), ("targets", _ITEMS), ("seen", pa.list_view(pa.int32()))]
)


def write_prompts(path: Path, batches: Iterable[tuple[pa.Array, Ragged, Ragged, Views]]) -> int:
    """Writes (users, histories, targets, what was seen before), batch after batch and atomically.

    Returns:
        The number of prompts.
    """
    columns = (
        [users, ragged_to_arrow(history), ragged_to_arrow(targets), views_to_arrow(seen)]
        for users, history, targets, seen in batches
    )
    return write_batches(path, _SCHEMA, columns)


class PromptTable:
    """Prompts by their index, the row in the file."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self._path = path
        self._users = table.column("user")
        chunks = table.to_batches()
        self._histories = [arrow_to_ragged(chunk.column("history")) for chunk in chunks]
        self._targets = [arrow_to_ragged(chunk.column("targets")) for chunk in chunks]
        self._seen = [arrow_to_views(chunk.column("seen")) for chunk in chunks]
        self._first = offsets_of([len(chunk) for chunk in chunks])

    @classmethod
    def load(cls, path: Path) -> PromptTable:
        """Maps the file; nothing is copied before it is read.

        Raises:
            FileNotFoundError: no such file.
            UserError: one that an earlier version wrote.
        """
        table = read_table(path)
        if table.schema != _SCHEMA:
            raise UserError(
                f"{path}: written by another version of blade_dist (columns {', '.join(table.column_names)}; here "
                f"{', '.join(_SCHEMA.names)}): delete {path.parent} and run the data stage again"
            )
        return cls(path, table)

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, index: NDArray[np.int64]) -> Prompts:
        """The given prompts, in the given order.

        Raises:
            IndexError: an index that is negative or not below the number of prompts.
        """
        index = checked_index(index, len(self), "prompts")
        users = self._users.take(pa.array(index)).to_numpy()
        columns = (self._histories, self._targets, self._seen)
        return Prompts(index, users, *(take_rows(chunks, self._first, index) for chunks in columns))

    def most_excluded(self, exclude_history: ExcludeHistory) -> int:
        """Items that the lists of any one prompt may not hold, at most; reads no item."""
        if not exclude_history:
            return 0
        chunks = self._histories if exclude_history == "shown" else self._seen
        return max((int(chunk.lengths.max(initial=0)) for chunk in chunks), default=0)

    def users(self) -> int:
        """Different users."""
        return int(pc.count_distinct(self._users).as_py())

    def of_user(self, user: str) -> NDArray[np.int64]:
        """The user's prompts, in the order of the file."""
        return pc.indices_nonzero(pc.equal(self._users, user)).to_numpy().astype(np.int64)

    def user_numbers(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[B]`` a number of each given prompt's user: the same for the same user; no history is read."""
        numbers = self._users.dictionary_encode().combine_chunks().indices.to_numpy()
        return numbers[index].astype(np.int64)

    def cold_targets(self, popularity: NDArray[np.int64]) -> tuple[int, int]:
        """Targets that are in no training part, and all targets; ``popularity``: ``[I]`` training interactions."""
        cold = sum(int((popularity[rows.flat] == 0).sum()) for rows in self._targets)
        return cold, sum(len(rows.flat) for rows in self._targets)

    def longest(self, codec: Codec) -> int:
        """Tokens of the longest prompt."""
        lengths = codec.shown_blocks.lengths
        sums = [offsets_of(lengths[rows.flat])[rows.offsets] for rows in self._histories]
        return len(codec.prefix) + len(codec.suffix) + max((int(np.diff(total).max()) for total in sums), default=0)

    def fingerprint(self) -> str:
        """Equal files, equal fingerprint."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return fingerprint_file(self._path)


def views_to_arrow(rows: Views) -> pa.ListViewArray:
    """A list-view column, whose rows may share values; these are not copied. At most 2**31 - 1 values."""
    starts, lengths = (pa.array(part.astype(np.int32)) for part in (rows.starts, rows.lengths))
    return pa.ListViewArray.from_arrays(starts, lengths, pa.array(rows.flat))


def arrow_to_views(column: pa.ListViewArray) -> Views:
    """Rows of a list-view column without nulls; the values are not copied."""
    starts, lengths = (part.to_numpy().astype(np.int64) for part in (column.offsets, column.sizes))
    return Views(column.values.to_numpy(zero_copy_only=True), starts, lengths)
