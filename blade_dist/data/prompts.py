"""The prompts of one split: a memory-mapped Arrow file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Prompts, Ragged
from blade_dist.catalog.arrow import arrow_to_ragged, ragged_to_arrow, read_table
from blade_dist.catalog.codec import Codec

_SCHEMA = pa.schema([("user", pa.string()), ("history", pa.list_(pa.int32())), ("targets", pa.list_(pa.int32()))])


def write_prompts(path: Path, batches: Iterable[tuple[pa.Array, Ragged, Ragged]]) -> int:
    """Writes (users, histories, targets), batch after batch and atomically; returns the number of prompts."""
    temporary, rows = path.with_name(path.name + ".tmp"), 0
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for users, history, targets in batches:
            if len(users):
                columns = [users, ragged_to_arrow(history), ragged_to_arrow(targets)]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
                rows += len(users)
    temporary.replace(path)
    return rows


class PromptTable:
    """Prompts by their index, the row in the file."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self._path = path
        self._users = table.column("user")
        chunks = table.to_batches()
        self._histories = [arrow_to_ragged(chunk.column("history")) for chunk in chunks]
        self._targets = [arrow_to_ragged(chunk.column("targets")) for chunk in chunks]
        self._first = np.concatenate([[0], np.cumsum([len(chunk) for chunk in chunks])]).astype(np.int64)

    @classmethod
    def load(cls, path: Path) -> PromptTable:
        """Maps the file; nothing is copied before it is asked for.

        Raises:
            FileNotFoundError: no such file.
        """
        return cls(path, read_table(path))

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, index: NDArray[np.int64]) -> Prompts:
        """The given prompts, in the given order.

        Raises:
            IndexError: an index that is negative or not below the number of prompts.
        """
        index = np.asarray(index, dtype=np.int64)
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"prompts 0 to {len(self) - 1}, not {index.min()} to {index.max()}")
        users = self._users.take(pa.array(index)).to_numpy()
        return Prompts(index, users, self._take(self._histories, index), self._take(self._targets, index))

    def user_numbers(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[B]`` a number of each given prompt's user: the same for the same user; no history is read."""
        numbers = self._users.dictionary_encode().combine_chunks().indices.to_numpy()
        return numbers[index].astype(np.int64)

    def longest(self, codec: Codec) -> int:
        """Tokens of the longest prompt."""
        lengths = codec.item_blocks.lengths
        sums = [np.concatenate([[0], np.cumsum(lengths[rows.flat])])[rows.offsets] for rows in self._histories]
        return len(codec.prefix) + len(codec.suffix) + max((int(np.diff(total).max()) for total in sums), default=0)

    def fingerprint(self) -> str:
        """Equal files, equal fingerprint."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def _take(self, chunks: list[Ragged], index: NDArray[np.int64]) -> Ragged:
        chunk = np.searchsorted(self._first, index, side="right") - 1
        order = np.argsort(chunk, kind="stable")
        parts = [chunks[number].take(index[chunk == number] - self._first[number]) for number in np.unique(chunk)]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return Ragged.concat(parts).take(back) if parts else Ragged.of([])
