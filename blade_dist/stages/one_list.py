"""One list of an evaluation as people read it: what a run ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blade_dist.batches import MISS
from blade_dist.data.bundle import DataBundle

SHOWN = 3
"""Items of the history."""


def one_list(per_user: Path, policy: str, decode: str, data: DataBundle) -> list[str]:
    """What the first evaluated user had last and what the policy wrote, by titles; nothing where it was not evaluated.

    Args:
        per_user: file of an evaluation.
        policy: as its tables call it.
        decode: a way of decoding.
        data: that the evaluation was of.
    """
    wanted = (pc.field("policy") == policy) & (pc.field("decode") == decode)
    rows = pq.read_table(per_user, columns=["prompt", "items"], filters=wanted)
    if not len(rows):
        return []
    prompts = data.test.rows(np.array(rows["prompt"][:1]))
    items = [item for item in rows["items"][0].as_py() if item != MISS]
    history = prompts.history[0][-SHOWN:].tolist()
    return [
        f"user {prompts.user[0]} had, latest last: {_titles(history, data)}",
        f"{policy} recommends: {_titles(items, data)}",
    ]


def _titles(items: Sequence[int], data: DataBundle) -> str:
    return "; ".join(data.catalog.titles[item] for item in items)
