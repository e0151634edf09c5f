"""What a count says of every place: the definition, and that nobody is asked about himself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.training import teacher
from blade_dist.training.teacher import Teacher, opinions

ITEMS = 12


def scores_by_hand(
    users: list[list[int]], features: np.ndarray, user: int, place: int, repeats: bool
) -> list[float | None]:
    """The definition of what follows the first ``place`` items of a user, item by item; None: it may not come."""
    counts = np.zeros((ITEMS, ITEMS))
    for other in range(len(users)):
        for at, item in enumerate(users[other]):
            for distance, later in enumerate(users[other][at + 1 : at + 1 + teacher.WINDOW]):
                counts[item, later] += (other != user) * teacher.NEARER**distance
    history = users[user][:place][::-1]
    centred = features - features.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    taken = np.bincount(np.concatenate(users), minlength=ITEMS)
    scores: list[float | None] = []
    for item in range(ITEMS):
        seen = sum(
            teacher.DECAY**lag * counts[i, item] / math.sqrt(counts[i].sum())
            for lag, i in enumerate(history[: teacher.LAST])
            if counts[i].any()
        )
        like = sum(
            teacher.LIKE_DECAY**lag * float(unit[i] @ unit[item]) for lag, i in enumerate(history[: teacher.LIKE_LAST])
        )
        score = math.log(teacher.UNSEEN + seen) + teacher.LIKENESS * like + teacher.POPULARITY * math.log1p(taken[item])
        scores.append(teacher.SHARPNESS * score if repeats or item not in history else None)
    return scores


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.booleans(), st.integers(1, ITEMS), st.integers(1, 200))
def test_opinions_are_their_definition(seed: int, repeats: bool, best: int, at_once: int) -> None:
    rng = np.random.default_rng(seed)
    users = [rng.integers(ITEMS, size=rng.integers(2, 16)).tolist() for _ in range(5)]
    if not repeats:
        users = [list(dict.fromkeys([*user, (user[0] + 1) % ITEMS])) for user in users]
    features = rng.normal(size=(ITEMS, 4)).astype(np.float32)
    sequences = Ragged.of([np.array(user, np.int32) for user in users])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "BEST", best)
        patch.setattr(teacher, "SCORES_AT_ONCE", at_once)
        found, likely = opinions(sequences, features, ITEMS, repeats)
    for user, items in enumerate(users):
        assert not likely[sequences.offsets[user]].any()
        for place in range(1, len(items)):
            scores = scores_by_hand(users, features, user, place, repeats)
            allowed = sorted((score for score in scores if score is not None), reverse=True)[:best]
            expected = np.exp(np.array(allowed) - max(allowed))
            row = sequences.offsets[user] + place
            order = np.argsort(-likely[row])[: len(allowed)]
            np.testing.assert_allclose(likely[row][order], expected / expected.sum(), rtol=1e-3, atol=1e-6)
            assert likely[row].sum() == pytest.approx(1, abs=1e-5)
            for item, chance in zip(found[row].tolist(), likely[row].tolist(), strict=True):
                score = scores[item]
                assert chance == pytest.approx(
                    0 if score is None else math.exp(score - max(allowed)) / expected.sum(), rel=1e-3, abs=1e-6
                )


def test_nobody_is_asked_about_himself() -> None:
    """That 5 follows 0 is known from the second user alone, who is told nothing of it; the first one learns it."""
    sequences = Ragged.of([np.array([0, 1], np.int32), np.array([0, 5], np.int32)])
    found, likely = opinions(sequences, None, ITEMS, repeats=False)
    chance = [dict(zip(found[row].tolist(), likely[row].tolist(), strict=True)) for row in (1, 3)]
    assert chance[0][5] > 5 * chance[0][1]
    assert chance[1][1] > 5 * chance[1][5]
    assert chance[0][0] == chance[1][0] == 0  # had already


def test_labels_follow_the_windows() -> None:
    sequences = Ragged.of([np.array([0, 1, 2, 3], np.int32), np.array([4, 5], np.int32)])
    tokens = np.arange(100, 100 + ITEMS, dtype=np.int32)
    found, likely = opinions(sequences, None, ITEMS, repeats=False)
    windows = [(np.array([1, 0]), np.array([0, 1]), np.array([2, 4]))]
    labels = Teacher(sequences, None, tokens, False, 0.5).of(windows)
    places = [4, 5, 1, 2, 3]
    assert labels.tokens.tolist() == (found[places] + 100).tolist()
    np.testing.assert_allclose(labels.shares, likely[places] / 2)
