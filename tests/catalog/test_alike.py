"""Vectors for new items: exact where they follow from the features, the mean where these say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.catalog.alike import PENALTIES, vectors_like


def unit(rng: np.random.Generator, items: int, dimensions: int) -> np.ndarray:
    rows = rng.normal(size=(items, dimensions))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(st.integers(0, 300), st.integers(20, 60), st.integers(1, 6))
@settings(max_examples=25)
def test_what_follows_from_the_features_is_found(seed: int, items: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    known, new = unit(rng, items, dimensions + 1), unit(rng, 5, dimensions + 1)
    projection, offset = rng.normal(size=(dimensions + 1, 4)), rng.normal(size=4)
    found, told = vectors_like(known, known @ projection + offset, new)
    assert told > 0.98
    np.testing.assert_allclose(found, new @ projection + offset, atol=0.05)


@given(st.integers(0, 300), st.integers(4, 30))
@settings(max_examples=10)
def test_the_penalty_is_the_best_for_items_left_out(seed: int, items: int) -> None:
    """As fits without each item in turn say it."""
    rng = np.random.default_rng(seed)
    known = unit(rng, items, 3)
    vectors = known @ rng.normal(size=(3, 2)) + rng.normal(size=(items, 2))
    values = np.linalg.svd(known - known.mean(axis=0), compute_uv=False)

    def error(penalty: float) -> float:
        total = 0.0
        for left in range(items):
            rest = np.arange(items) != left
            x, y = known[rest] - known.mean(axis=0), vectors[rest]
            # the intercept is not shrunk: a ridge on deviations from the means of those that are left
            middle, mean = x.mean(axis=0), y.mean(axis=0)
            weights = np.linalg.solve((x - middle).T @ (x - middle) + penalty * np.eye(3), (x - middle).T @ (y - mean))
            at = known[left] - known.mean(axis=0) - middle
            total += float(((vectors[left] - mean - at @ weights) ** 2).sum())
        return total

    least = min(map(error, PENALTIES * (values**2).mean()))
    alone = sum(
        float(((vectors[left] - vectors[np.arange(items) != left].mean(axis=0)) ** 2).sum()) for left in range(items)
    )
    told = vectors_like(known, vectors, known[:1])[1]
    assert told == pytest.approx(max(0.0, 1 - least / alone), abs=1e-6)


def test_a_twin_is_placed_beside_its_twin() -> None:
    """Also what no feature tells of an item goes along, as far as the new one is like it."""
    rng = np.random.default_rng(0)
    known = unit(rng, 50, 8)
    vectors = known @ rng.normal(size=(8, 4)) + 0.3 * rng.normal(size=(50, 4))
    found, told = vectors_like(known, vectors, known[[3, 17]])
    assert 0.5 < told < 1
    np.testing.assert_allclose(found, vectors[[3, 17]], atol=1e-9)


def test_features_that_say_nothing_give_the_mean() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 4))
    for known, new in (
        (np.ones((30, 1)), np.ones((2, 1))),
        (unit(rng, 30, 2), np.zeros((2, 2))),
    ):
        np.testing.assert_allclose(vectors_like(known, vectors, new)[0], np.tile(vectors.mean(axis=0), (2, 1)))
    assert vectors_like(np.ones((30, 1)), vectors, np.ones((2, 1)))[1] == 0
    assert vectors_like(unit(rng, 30, 2), vectors, np.zeros((0, 2)))[0].shape == (0, 4)
    assert vectors_like(unit(rng, 2, 2), vectors[:2], np.zeros((1, 2)))[0].tolist() == [
        vectors[:2].mean(axis=0).tolist()
    ]


def test_equal_vectors_stay_equal() -> None:
    """As those that a fine-tuned model reads all tokens of a list by."""
    rng = np.random.default_rng(0)
    found, _ = vectors_like(unit(rng, 30, 3), np.tile([1.0, -2.0], (30, 1)), unit(rng, 4, 3))
    np.testing.assert_allclose(found, np.tile([1.0, -2.0], (4, 1)))
