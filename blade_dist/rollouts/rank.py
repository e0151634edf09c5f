"""Rank decoding: the best first items of each prompt, by one search instead of a list written item by item. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ranked
from blade_dist.catalog.rules import Rules

WIDER = 4
"""A search that has found too few items that fit together is repeated for so many times as many."""

Search = Callable[[NDArray[np.int64], int], Ranked]
"""Of prompts ``[n]``, the ``width`` best items each, ``C`` of ``width``."""


def best_items(search: Search, prompts: int, k: int, size: int, rules: Rules | None) -> Ranked:
    """The ``size`` best items of each prompt, ``k`` of which rules allow together, while there are as many.

    Items that do not fit beside better ones make room where fewer than ``k`` would fit otherwise::

        found     7 (drama)  3 (drama)  9  5 (drama)     at most one drama, k = 2, size = 2
        fitting   7                     9

    Args:
        search: of a prompt's items.
        prompts: how many.
        k: items of a list.
        size: items each, ``k`` or more.
        rules: over catalog indices.
    """
    best = Ranked(np.full((prompts, size), MISS, dtype=np.int32), np.full((prompts, size), -np.inf))
    rows, width = np.arange(prompts), size
    while len(rows):
        found = search(rows, width)
        fits = _kept(found.items, rules) != MISS
        fits &= np.cumsum(fits, axis=1) <= k
        # the k that fit first, then the others; of these as many as there is room for, in the order they were found in
        chosen = np.sort(np.argsort(~fits, axis=1, kind="stable")[:, :size], axis=1)
        best.items[rows] = np.take_along_axis(found.items, chosen, axis=1)
        best.scores[rows] = np.take_along_axis(found.scores, chosen, axis=1)
        more = (fits.sum(axis=1) < k) & (found.items != MISS).all(axis=1)
        rows, width = rows[more], width * WIDER
    return best


def first_fitting(ranked: Ranked, k: int, rules: Rules | None) -> Ranked:
    """``C`` of ``k``: of each prompt the first items that rules allow beside the better ones, then :data:`MISS`."""
    kept = _kept(ranked.items, rules)
    first = np.argsort(kept == MISS, axis=1, kind="stable")[:, :k]
    return Ranked(np.take_along_axis(kept, first, axis=1), np.take_along_axis(ranked.scores, first, axis=1))


def _kept(items: NDArray[np.int32], rules: Rules | None) -> NDArray[np.int32]:
    return items if rules is None else rules.keep(items)
