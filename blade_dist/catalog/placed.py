"""Codes for items that come after the training, beside those that items have. Pure numpy.

The training's quantiser (:mod:`blade_dist.catalog.balanced`) is told from what it made: a code's center is the mean of
what the codes before it left over of the items that have it. Items that are there keep their codes, and no item's
codes may begin another's. So where an item has its codes for itself, nobody else may have them, and where several share
theirs, a *last code* tells them apart. With the codes of two levels and three last codes 0, 1 and 2::

    codes    who has them                          room for
    4 7      one item                              nobody
    4 8      two items, as 4 8 0 and 4 8 1         one: 4 8 2
    5 7      nobody                                three; one alone is 5 7, several are 5 7 0, 5 7 1, ...
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.catalog.balanced import labels_with_room
from blade_dist.errors import UserError


def placed_tokens(tokens: Ragged, known: NDArray[np.float32], new: NDArray[np.float32]) -> Ragged:
    """Tokens of new items, of those that items have.

    An item gets the nearest code of each level below which there is room, and nearer items come first.

    Args:
        tokens: ``I`` rows, int32: each item's codes, of as many levels as the shortest row has; one more in a row of
            an item that shares all of them.
        known: ``[I, D]`` the items' features.
        new: ``[n, D]`` those of the new items.

    Returns:
        ``n`` rows, int32.

    Raises:
        UserError: more new items than there is room for.
    """
    levels = int(tokens.lengths.min())
    first = tokens.offsets[:-1, None] + np.arange(levels)
    names, codes = zip(*(np.unique(column, return_inverse=True) for column in tokens.flat[first].T), strict=True)
    shares = tokens.lengths > levels
    last_names = np.unique(tokens.flat[tokens.offsets[1:][shares] - 1])
    leaf = max(1, len(last_names))
    """Items that can have the same codes."""
    took = np.where(shares, 1, leaf)
    """What of its leaf an item takes: one alone takes all of it."""
    sizes = [len(name) for name in names]
    if (room := leaf * math.prod(sizes) - int(took.sum())) < len(new):
        raise UserError(
            f"{len(new)} items are new, and the semantic IDs have room for {room} more; train anew with these items"
        )
    found, family, known_family = _codes(codes, sizes, took, leaf, known, new)
    chosen = [name[column] for name, column in zip(names, found, strict=True)]
    last = _last_codes(family, np.bincount(known_family[shares], minlength=int(family.max(initial=0)) + 1))
    rows = np.stack([*chosen, np.append(last_names, 0)[last]], axis=1)
    used = np.ones(rows.shape, dtype=bool)
    used[:, -1] = last >= 0
    return Ragged(rows[used].astype(np.int32), offsets_of(used.sum(axis=1)))


def _codes(
    codes: tuple[NDArray[np.int64], ...],
    sizes: list[int],
    took: NDArray[np.int64],
    leaf: int,
    known: NDArray[np.float32],
    new: NDArray[np.float32],
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64], NDArray[np.int64]]:
    """Each level's code of every new item; numbers of the leaves of new items and of those that are known."""
    left, left_known = np.array(new, dtype=np.float32), np.array(known, dtype=np.float32)
    family, family_known = np.zeros(len(new), np.int64), np.zeros(len(known), np.int64)
    found = []
    for level, (column, size) in enumerate(zip(codes, sizes, strict=True)):
        centers = _means(left_known, column, size)
        below = float(leaf) * math.prod(map(float, sizes[level + 1 :]))
        families = int(max(family.max(initial=0), family_known.max(initial=0))) + 1
        taken = np.bincount(family_known * size + column, weights=took, minlength=families * size)
        room = np.minimum(below - taken, len(new)).astype(np.int64).reshape(families, size)
        label = labels_with_room(left, centers, family, room)
        found.append(label)
        left -= centers[label]
        left_known -= centers[column]
        both = np.concatenate([family * size + label, family_known * size + column])
        both = np.unique(both, return_inverse=True)[1].reshape(-1)
        family, family_known = both[: len(new)], both[len(new) :]
    return found, family, family_known


def _means(points: NDArray[np.float32], label: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """``[count, D]``: the mean of the points of each label; every label has one."""
    order = np.argsort(label, kind="stable")
    starts = offsets_of(np.bincount(label, minlength=count))
    sums = np.add.reduceat(points[order].astype(np.float64), starts[:-1], axis=0)
    means: NDArray[np.float32] = (sums / np.diff(starts)[:, None]).astype(np.float32)
    return means


def _last_codes(family: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each new item among those with its codes, after the ``held`` ones by family; -1 where it is alone."""
    counts = np.bincount(family, minlength=len(held))
    number = np.empty(len(family), np.int64)
    number[np.argsort(family, kind="stable")] = ranges(0, counts)
    number += held[family]
    return np.where(counts[family] + held[family] > 1, number, -1)
