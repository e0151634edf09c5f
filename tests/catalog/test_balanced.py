"""Balanced residual codes: no code takes more than its share, the nearest come first, and similar items begin alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.catalog.balanced import SLACK, balanced_labels, residual_codes


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
def test_no_center_takes_more_of_a_family_than_its_share(seed: int, points: int, centers: int, families: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 3, (points, 2)).astype(np.float32)  # many are equal
    family = np.unique(rng.integers(0, families, points), return_inverse=True)[1]
    label = balanced_labels(vectors, rng.normal(size=(centers, 2)).astype(np.float32), family)
    assert label.min() >= 0
    assert label.max() < centers
    for number in range(family.max() + 1):
        size = int((family == number).sum())
        assert np.bincount(label[family == number]).max() <= SLACK * -(-size // centers)


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_who_is_sent_on_finds_every_nearer_center_full_of_nearer_points(seed: int, points: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, centers = (rng.normal(size=(n, 2)).astype(np.float32) for n in (points, 3))
    label = balanced_labels(vectors, centers, np.zeros(points, np.int64))
    distance = np.linalg.norm(vectors[:, None] - centers, axis=2)
    room = int(SLACK * -(-points // 3))
    for point in range(points):
        for center in np.flatnonzero(distance[point] < distance[point, label[point]] - 1e-4):
            assert (label == center).sum() == room


def test_codes_enough_tell_every_item_apart_and_similar_ones_begin_alike() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(5), 100)
    features = (10 * np.eye(5)[kinds] + rng.normal(size=(500, 5))).astype(np.float32)
    codes = residual_codes(features, 3, 10, seed=0)
    assert len(np.unique(codes, axis=0)) == 500
    np.testing.assert_array_equal(codes, residual_codes(features, 3, 10, seed=0))
    pure = [np.bincount(kinds[codes[:, 0] == code]).max() / (codes[:, 0] == code).sum() for code in range(10)]
    assert np.mean(pure) > 0.9


def test_equal_items_share_codes_only_where_there_are_too_few() -> None:
    codes = residual_codes(np.zeros((20, 3), np.float32), 2, 4, seed=0)
    assert np.bincount(codes[:, 0]).tolist() == [5] * 4
    assert np.unique(codes, axis=0, return_counts=True)[1].max() == 2
