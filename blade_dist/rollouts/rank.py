"""Rank decoding: the K best first items of each prompt, by one search instead of a list written item by item. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS
from blade_dist.catalog.rules import Rules

WIDER = 4
"""A search that has found too few items that fit together is repeated for so many times as many."""

Search = Callable[[NDArray[np.int64], int], NDArray[np.int32]]
"""Of prompts ``[n]``, the ``width`` best items each: ``[n, width]`` catalog indices, best first, :data:`MISS` where no
more are left."""


def best_items(search: Search, prompts: int, k: int, rules: Rules | None) -> NDArray[np.int32]:
    """The ``k`` best items of each prompt that rules allow together: int32 ``[prompts, k]``, then :data:`MISS`.

    An item that fits no more beside the better ones is left out, and the next best takes its place::

        found   7 (drama)  3 (drama)  9        at most one drama
        kept    7          MISS       9        two of K = 3, so that more are searched for

    Args:
        search: of a prompt's items.
        prompts: how many.
        k: items each.
        rules: over catalog indices.
    """
    best = np.full((prompts, k), MISS, dtype=np.int32)
    rows, width = np.arange(prompts), k
    while len(rows):
        found = search(rows, width)
        kept = found if rules is None else rules.keep(found)
        order = np.argsort(kept == MISS, axis=1, kind="stable")
        best[rows] = np.take_along_axis(kept, order, axis=1)[:, :k]
        more = (best[rows] == MISS).any(axis=1) & (found != MISS).all(axis=1)
        rows, width = rows[more], width * WIDER
    return best
