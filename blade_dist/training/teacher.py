"""What a count says of every place of the training sequences, for the fine-tuned model to imitate. Pure numpy, scipy.

A model learns a few thousand items from a few interactions each; what follows an item so seldom is found better by
counting, and what resembles it by comparing titles. Neither sees more than the last items. So the model is shown both
opinions beside what the user took (distillation: Hinton et al., 2015). That helps only with an opinion that would be as
good about somebody else: a user's own sequence is left out of the counts that are asked about it, because otherwise
they would know the answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from blade_dist.batches import Ragged, ranges
from blade_dist.catalog.followers import followed, followers
from blade_dist.learners.soft_labels import SoftLabels

WINDOW, NEARER = 10, 0.7
"""Items after an item that count as its successors, and what one counts of one a place nearer."""
LAST, DECAY = 10, 0.7
"""Items of the history whose successors are counted, and what one counts of the one after it."""
LIKE_LAST, LIKE_DECAY = 3, 0.5
"""Items of the history that others are compared with, and what one counts of the one after it."""
UNSEEN, LIKENESS, POPULARITY, SHARPNESS = 0.05, 2.0, 0.25, 1.3
"""Of the score, see :func:`opinions`; chosen by the log-likelihood of Amazon Scientific's validation items."""
BEST = 64
"""Items of an opinion."""
ROUNDING = 1e-6
"""A count that is smaller is 0."""
SCORES_AT_ONCE = 2**22
"""Scores (place x item) that are held at once."""


class Teacher:
    """Soft labels of windows of the training sequences."""

    def __init__(
        self,
        sequences: Ragged,
        features: NDArray[np.float32] | None,
        tokens: NDArray[np.int32],
        repeats: bool,
        share: float,
    ) -> None:
        """Counts at once; holds 8 bytes for each place and each of BEST items.

        Args:
            sequences: a row per user: the training items, catalog indices, oldest first.
            features: ``[I, D]`` what is known of the items, or None.
            tokens: ``[I]`` the token of each item.
            repeats: whether a user may take an item again.
            share: of the loss, in [0, 1); what the user took has the rest.
        """
        self._offsets, self._tokens, self._share = sequences.offsets, tokens, share
        self._items, self._likely = opinions(sequences, features, len(tokens), repeats)

    def of(self, windows: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]) -> SoftLabels:
        """For each item of the windows, one after another; those of :meth:`.windows.Windows.bounds`."""
        places = [np.zeros(0, np.int64)]
        for user, start, stop in windows:
            places.append(ranges(self._offsets[user] + start, stop - start))
        place = np.concatenate(places)
        return SoftLabels(self._tokens[self._items[place]].astype(np.int64), self._share * self._likely[place])


def opinions(
    sequences: Ragged, features: NDArray[np.float32] | None, items: int, repeats: bool
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For every place of ``sequences.flat``, the items that may stand there, and how likely each is.

    The score of item j after a history is ``SHARPNESS * (log(UNSEEN + sum over its last LAST items i, at lag l, of
    DECAY^l * S_ij) + LIKENESS * sum over its last LIKE_LAST items of LIKE_DECAY^l * cos(f_i, f_j) + POPULARITY * log(1
    + n_j))``. ``S_ij = C_ij / sqrt(sum_j C_ij)``, C of :func:`~blade_dist.catalog.followers.followers` over all
    sequences but the user's own; n_j is the number of times that j was taken. The likelihoods are the softmax of the
    BEST scores.

    Args:
        sequences: a row per user: the training items, catalog indices, oldest first.
        features: ``[I, D]`` what is known of the items, or None.
        items: I.
        repeats: whether a user may take an item again.

    Returns:
        Items int32 and likelihoods float32, ``[places, min(BEST, I)]`` each; likelihoods of 0 at a row's first place.
    """
    counted = followers(sequences, items, WINDOW, NEARER)
    taken = POPULARITY * np.log1p(np.bincount(sequences.flat, minlength=items)).astype(np.float32)
    like = np.zeros((items, 0), np.float32) if features is None else _directions(features)
    best = min(BEST, items)
    found = np.zeros((len(sequences.flat), best), np.int32)
    likely = np.zeros((len(sequences.flat), best), np.float32)
    for users in _parts(sequences.offsets, SCORES_AT_ONCE // items):
        part = sequences.take(users)
        shape = (len(part.flat), items)
        seen = _successors(part, counted).toarray().astype(np.float32)
        scores = SHARPNESS * (np.log(UNSEEN + seen) + LIKENESS * _likeness(part, like) + taken)
        if not repeats:
            before = ranges(0, part.lengths) + 1
            scores[np.repeat(np.arange(shape[0]), before), part.flat[ranges(_first(part), before)]] = -np.inf
        # the opinion after a place is about the next one
        asked = np.setdiff1d(np.arange(shape[0]), part.offsets[1:] - 1)
        place = sequences.offsets[users[0]] + asked + 1
        found[place], likely[place] = _best(scores[asked], best)
    return found, likely


def _successors(part: Ragged, counted: csr_matrix) -> csr_matrix:
    """``[places, I]``: the score of the counts after each place, without those of the place's own user."""
    user = np.repeat(np.arange(len(part)), part.lengths)
    # a row for each user and item, which may stand at several places
    _, place, row = np.unique(user * counted.shape[0] + part.flat, return_index=True, return_inverse=True)
    others = counted[part.flat[place]]
    for first, second, weight in followed(part, WINDOW, NEARER):
        pairs = (row[first], part.flat[second])
        others = others - csr_matrix((np.full(len(first), weight), pairs), shape=others.shape)
    others.data = np.maximum(others.data, 0.0)  # rounding
    total = np.asarray(others.sum(axis=1)).ravel()
    scaled = diags(1 / np.sqrt(np.where(total > ROUNDING, total, 1.0))) @ others
    reach = np.minimum(ranges(0, part.lengths) + 1, LAST)
    lag, here = ranges(0, reach), np.repeat(np.arange(len(row)), reach)
    weights = csr_matrix((DECAY**lag, (here, row[here - lag])), shape=(len(row), len(place)))
    return (weights @ scaled).tocsr()


def _likeness(part: Ragged, like: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[places, I]``"""
    place = ranges(0, part.lengths)
    sums = np.zeros((len(part.flat), like.shape[1]), np.float32)
    for lag in range(LIKE_LAST):
        there = np.flatnonzero(place >= lag)
        sums[there] += LIKE_DECAY**lag * like[part.flat[there - lag]]
    return sums @ like.T


def _directions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the mean of all items, each row of length 1; 0 where it is there."""
    centred = features - features.mean(axis=0)
    return (centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def _first(part: Ragged) -> NDArray[np.int64]:
    """``[places]`` the first place of each one's row."""
    return np.repeat(part.offsets[:-1], part.lengths)


def _best(scores: NDArray[np.float32], best: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``best`` largest of each row, and their softmax; one that may not come has a likelihood of 0."""
    top = np.argpartition(scores, -best, axis=1)[:, -best:]
    values = np.take_along_axis(scores, top, axis=1)
    likely = np.exp(values - values.max(axis=1, keepdims=True, initial=-1e9))
    return top, likely / np.maximum(likely.sum(axis=1, keepdims=True), 1e-9)


def _parts(offsets: NDArray[np.int64], places: int) -> list[NDArray[np.int64]]:
    """Rows, in order, in parts of about so many places."""
    number = offsets[:-1] // max(1, places)
    return [part for part in np.split(np.arange(len(number)), np.flatnonzero(np.diff(number)) + 1) if len(part)]
