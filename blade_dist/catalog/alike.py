"""Vectors for items that no training has seen: those that items of like words would have. Pure numpy.

A model that is built learns an item's vector as a free part and a projection of its features
(``learners/item_vectors.py``), and keeps the sum alone. The part that follows from the features is found again by ridge
regression (Hoerl and Kennard, 1970) of the vectors that items have on their features; what that leaves over is the free
part. A new item gets the first part from its own features, and the second from the item that it is most like, times how
like that is: with the first part alone the vectors are short, and such items hardly ever enter a list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PENALTIES = np.logspace(-3, 3, 13)
"""Tried, in units of the features' mean squared singular value; beyond the largest there is the mean alone."""
JUDGED = 2000
"""Items that judge a penalty, at most."""
_AT_ONCE = 2**24
"""Similarities that are held at once."""


def vectors_like(
    features: NDArray[np.floating], vectors: NDArray[np.floating], new: NDArray[np.floating]
) -> tuple[NDArray[np.float64], float]:
    """Vectors of new items: a ridge regression with an intercept, and the residual of the item with the most like
    features, times their scalar product.

    The penalty is the one with the least squared error where each item is told from all others, which ridge regression
    gives without a fit per item (PRESS; Allen, 1974): with ``X = U S V'`` centred, the hat values are
    ``h_i = 1/I + sum_k U_ik^2 s_k^2 / (s_k^2 + penalty)``, and the error of item i left out is its residual over
    ``1 - h_i``. Where no penalty beats the mean vector, all new items get the mean; so does one whose features are all
    0, as no word of it is known.

    Args:
        features: ``[I, D]`` of items that have vectors, each of length 1.
        vectors: ``[I, T]``.
        new: ``[n, D]`` features of those that have none, each of length 1, or 0.

    Returns:
        ``[n, T]``; how much of the vectors' variance the features tell of items left out, 0 to 1.
    """
    middle, mean = features.mean(axis=0, dtype=np.float64), vectors.mean(axis=0, dtype=np.float64)
    mean_alone = np.tile(mean, (len(new), 1))
    if len(features) < 3:
        return mean_alone, 0.0
    left, values, right = np.linalg.svd(features - middle, full_matrices=False)
    kept = values > 1e-6 * max(float(values[0]), 1e-12)
    left, squares, right = left[:, kept], values[kept] ** 2, right[kept]
    if not len(squares):
        return mean_alone, 0.0
    told = left.T @ (vectors - mean)
    judges = np.unique(np.linspace(0, len(features) - 1, JUDGED).astype(np.int64))
    deviation = vectors[judges] - mean
    # the mean of all others stands at I / (I - 1) times the deviation from the mean of all
    best, error, alone = None, np.inf, float((deviation**2).sum()) * (len(features) / (len(features) - 1)) ** 2
    for penalty in PENALTIES * squares.mean():
        shrunk = squares / (squares + penalty)
        hat = 1 / len(features) + (left[judges] ** 2) @ shrunk
        residual = (deviation - (left[judges] * shrunk) @ told) / np.maximum(1 - hat, 1e-9)[:, None]
        if (found := float((residual**2).sum())) < error:
            best, error = penalty, found
    if best is None or error >= alone:
        return mean_alone, 0.0
    weights = (right.T * (np.sqrt(squares) / (squares + best))) @ told
    residual = vectors - mean - (features - middle) @ weights
    nearest, likeness = _nearest(features, new)
    made = (new - middle) @ weights + likeness[:, None] * residual[nearest]
    known = np.abs(new).max(axis=1, initial=0) > 0
    return mean + np.where(known[:, None], made, 0.0), 1 - error / alone


def _nearest(
    features: NDArray[np.floating], new: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """``[n]`` the item with the largest scalar product, the first of equals; and that product, 0 at least."""
    nearest, likeness = np.zeros(len(new), np.int64), np.zeros(len(new))
    for rows in np.array_split(np.arange(len(new)), len(new) * len(features) // _AT_ONCE + 1):
        products = new[rows] @ features.T
        nearest[rows] = products.argmax(axis=1)
        likeness[rows] = products[np.arange(len(rows)), nearest[rows]]
    return nearest, np.maximum(likeness, 0.0)
