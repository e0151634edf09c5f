"""Seeds and the order of prompts: pure functions of the run's seed, so that a resumed run repeats itself."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stable_seed(*parts: object) -> int:
    """A 63-bit hash of the parts. vLLM seeds sample ``i`` with ``seed + i``: nearby seeds would share streams."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def prompts_of_step(seed: int, step: int, size: int, per_step: int) -> NDArray[np.int64]:
    """Rows of the training table that step ``step`` uses: shuffled passes over all rows, cut every ``per_step``.

    Args:
        seed: the run's seed.
        step: counted from 0.
        size: rows in the table.
        per_step: rows per step; may exceed ``size``.

    Returns:
        int64 ``[per_step]``.
    """
    first, last = step * per_step, (step + 1) * per_step
    passes = range(first // size, (last - 1) // size + 1)
    order = np.concatenate([np.random.default_rng([seed, number]).permutation(size) for number in passes])
    start = first - passes[0] * size
    return order[start : start + per_step].astype(np.int64)
