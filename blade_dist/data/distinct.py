"""How many different ids a stream holds, in eight bytes for each. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class DistinctIds:
    """Counts by 64-bit hashes, which are the same in every process: of a billion ids one in forty runs is one short."""

    def __init__(self) -> None:
        self._merged: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._new: list[NDArray[np.uint64]] = []
        self._waiting = 0

    def add(self, ids: pa.ChunkedArray) -> None:
        """Texts, without nulls."""
        self._new.append(hashed(pc.unique(ids)))
        self._waiting += len(self._new[-1])
        if self._waiting > max(len(self._merged), 2**16):  # merged when doubled, so that each is sorted a few times
            self._merge()

    def __len__(self) -> int:
        self._merge()
        return len(self._merged)

    def _merge(self) -> None:
        self._merged = np.unique(np.concatenate([self._merged, *self._new]))
        self._new, self._waiting = [], 0


def hashed(ids: pa.Array) -> NDArray[np.uint64]:
    """A hash of each text that is the same in every process (Python's differs from run to run)."""
    return pd.util.hash_array(ids.to_numpy(zero_copy_only=False))
