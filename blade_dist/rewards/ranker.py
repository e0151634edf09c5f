"""A ranker's distribution over each prompt's next item, on disk: its best items with their log-probs.

What is left of the distribution, the tail, is kept as it is: with nobody. The metrics that read it are quotients of two
sums of probabilities, so that spreading the tail over the best items would change no value, and what these hold of the
whole could no longer be said.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ranked
from blade_dist.errors import UserError
from blade_dist.store.arrow import read_table, write_table

STAMP_KEY = b"stamp"


@dataclass(frozen=True)
class RankerTable:
    """The best items of ``P`` prompts of a split, sorted by prompt."""

    prompts: NDArray[np.int64]
    """``[P]`` rows of the split's table, ascending."""
    ranked: Ranked
    """``[P, C]`` of them, views of the memory-mapped file; scores are log-probs (nats)."""
    stamp: dict[str, Any]
    """What the table depends on."""

    @classmethod
    def load(cls, path: Path) -> RankerTable:
        """Maps the file without a copy.

        Raises:
            FileNotFoundError: no such file.
            UserError: another file, or a damaged one.
        """
        try:
            table = read_table(path)
            stamp = json.loads(table.schema.metadata[STAMP_KEY])
        except (pa.ArrowInvalid, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: no ranker's table, or damaged ({error}): delete it, and it is made anew"
            ) from None
        items, scores = (_matrix(table[name]) for name in ("items", "logprobs"))
        return cls(table["prompt"].combine_chunks().to_numpy(), Ranked(items, scores), stamp)

    def lacks(self, prompts: NDArray[np.int64]) -> bool:
        """Whether one of the prompts is not there."""
        return len(np.setdiff1d(prompts, self.prompts)) > 0

    def of(self, prompts: NDArray[np.int64]) -> Ranked:
        """The best items of the given prompts, all of which are there."""
        return self.ranked.take(np.searchsorted(self.prompts, prompts))


def write_ranker(path: Path, prompts: NDArray[np.int64], ranked: Ranked, stamp: dict[str, Any]) -> None:
    """Saves what a ranker says of ``[P]`` prompts, ascending, atomically."""
    columns = {
        "prompt": pa.array(prompts),
        "items": _rows(ranked.items.astype(np.int32)),
        "logprobs": _rows(ranked.scores.astype(np.float32)),
    }
    write_table(pa.table(columns).replace_schema_metadata({STAMP_KEY: json.dumps(stamp)}), path)


def mass(ranked: Ranked) -> NDArray[np.float64]:
    """``[n]`` how much of the distribution the best items hold, 0 to 1."""
    valid = ranked.items != MISS
    return np.exp(np.where(valid, ranked.scores, -np.inf)).sum(axis=1, dtype=np.float64)


def _rows(values: NDArray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _matrix(column: pa.ChunkedArray) -> NDArray:
    rows = column.combine_chunks()
    matrix: NDArray = rows.flatten().to_numpy(zero_copy_only=True).reshape(len(rows), -1)
    return matrix
