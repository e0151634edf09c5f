"""Residual k-means whose codes are used evenly, so that few items share all of theirs. Pure numpy and scikit-learn.

Level 1 clusters the items' features, each next level clusters what the levels before left over (RQ-VAE's quantiser
without the network; Rajput et al., "Recommender Systems with Generative Retrieval", 2023). Plain k-means puts many
items into few clusters: their codes would run out at the last level, while most combinations of codes name nothing. So
among the items that share the earlier codes each code takes a limited number, and an item that finds its nearest code
full takes the next one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import ranges

SLACK = 1.1
"""A code may take so many times what it would take if all took the same."""
_EXACT_ITEMS = 20_000
_CHUNK = 2**24
"""Distances that are held at once."""


def residual_codes(features: NDArray[np.float32], levels: int, codes: int, seed: int) -> NDArray[np.int64]:
    """int64 ``[I, levels]`` with values below ``codes``; the same for the same seed.

    Of ``n`` items that share their first codes at most ``SLACK * ceil(n / codes)`` share the next one.
    """
    residual = np.array(features, dtype=np.float32)
    family = np.zeros(len(residual), dtype=np.int64)
    columns = []
    for level in range(levels):
        centers = _centers(residual, codes, seed + level)
        column = balanced_labels(residual, centers, family)
        columns.append(column)
        residual -= centers[column]
        family = np.unique(family * codes + column, return_inverse=True)[1].reshape(-1)
    return np.stack(columns, axis=1)


def balanced_labels(
    points: NDArray[np.float32], centers: NDArray[np.float32], family: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Each point's center, int64 ``[n]``: the nearest that is not full with nearer points of its family, where a
    center has room for ``SLACK`` times its even share of a family.

    Args:
        points: ``[n, D]``.
        centers: ``[C, D]``; equal ones may be among them.
        family: ``[n]`` numbers from 0; each family has its own room at every center.
    """
    count = len(centers)
    room = np.floor(SLACK * -(-np.bincount(family) // count)).astype(np.int64)[:, None].repeat(count, axis=1)
    return labels_with_room(points, centers, family, room)


def labels_with_room(
    points: NDArray[np.float32], centers: NDArray[np.float32], family: NDArray[np.int64], room: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Each point's center, int64 ``[n]``: the nearest that is not full with nearer points of its family.

    In rounds: all points without a center ask for their nearest one that has room, and it takes the nearest of those
    who ask. With room for two each, and the distances to the centers A and B::

        point       p     q     r     s
        A, B        1 9   2 9   3 5   8 1      round 1: A takes p and q, B takes s; r asks for B in round 2

    Args:
        points: ``[n, D]``.
        centers: ``[C, D]``.
        family: ``[n]`` numbers from 0.
        room: int64 ``[families, C]`` points that each center takes of each family, as many as there are at least; what
            is left of it when this returns.
    """
    count = len(centers)
    label = np.full(len(points), -1)
    asking = np.arange(len(points))
    while len(asking):
        choice, distance = _nearest(points[asking], centers, room, family[asking])
        place = family[asking] * count + choice
        order = np.lexsort((distance, place))
        # the points that ask for one place of one family stand side by side, the nearest first
        _, first, askers = np.unique(place[order], return_index=True, return_counts=True)
        number = ranges(np.zeros(len(first), np.int64), askers)
        taken = order[number < room.reshape(-1)[place[order]]]
        label[asking[taken]] = choice[taken]
        np.subtract.at(room.reshape(-1), place[taken], 1)
        asking = np.delete(asking, taken)
    return label


def _nearest(
    points: NDArray[np.float32], centers: NDArray[np.float32], room: NDArray[np.int64], family: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each point the nearest of the centers with room for its family, and its squared distance (less the point's
    own square, which is the same for all centers)."""
    squares = (centers**2).sum(axis=1)
    choices, distances = [], []
    for rows in np.array_split(np.arange(len(points)), len(points) * len(centers) // _CHUNK + 1):
        distance = np.where(room[family[rows]] > 0, squares - 2 * points[rows] @ centers.T, np.inf)
        choices.append(distance.argmin(axis=1))
        distances.append(np.take_along_axis(distance, choices[-1][:, None], axis=1)[:, 0])
    return np.concatenate(choices), np.concatenate(distances)


def _centers(points: NDArray[np.float32], codes: int, seed: int) -> NDArray[np.float32]:
    """``[codes, D]``. With codes enough, each distinct point is a center, which k-means would arrive at after many
    minutes; the codes that are left over repeat them."""
    distinct = np.unique(points, axis=0)
    if len(distinct) <= codes:
        return distinct[np.arange(codes) % len(distinct)]
    from sklearn.cluster import KMeans, MiniBatchKMeans  # takes seconds; items with a token each need none of it

    kind = KMeans if len(points) <= _EXACT_ITEMS else MiniBatchKMeans
    centers: NDArray[np.float32] = kind(codes, random_state=seed, n_init=2).fit(points).cluster_centers_
    return centers.astype(np.float32)
