"""EASE against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.evaluation import ease
from blade_dist.evaluation.ease import ease_lists, ease_weights
from blade_dist.evaluation.top_items import occurrence
from tests.helpers.catalogs import ITEMS, made_prompts, make_catalog


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 30), st.sampled_from([1.0, 30.0]))
def test_each_column_is_the_ridge_regression_on_all_other_items(seed: int, users: int, ridge: float) -> None:
    """With fewer users than items the other product is inverted."""
    seen = np.random.default_rng(seed).random((users, ITEMS)) < 0.4
    found = ease_weights(occurrence(Ragged.of([np.flatnonzero(row) for row in seen]), ITEMS).astype(np.float32), ridge)
    x = seen.astype(float)
    for item in range(ITEMS):
        others = np.delete(x, item, axis=1)
        expected = np.linalg.solve(others.T @ others + ridge * np.eye(ITEMS - 1), others.T @ x[:, item])
        np.testing.assert_allclose(np.delete(found[:, item], item), expected, atol=2e-5)
        assert found[item, item] == 0


def test_what_goes_together_is_listed_first() -> None:
    sequences = Ragged.of([[0, 7], [0, 7], [0, 7], [1, 8], [1, 8], [2, 3]])
    prompts = made_prompts([[0], [8]], [[7], [1]])
    lists = ease_lists(make_catalog(), sequences, prompts, prompts, 2, exclude_history=True)
    assert lists[:, 0].tolist() == [7, 1]


def test_the_penalty_is_chosen_on_validation_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sequences = Ragged.of([rng.permutation(ITEMS)[:4] for _ in range(40)])
    prompts = made_prompts([rng.permutation(ITEMS)[:3] for _ in range(9)], [[0]] * 9)
    by_ridge = {}
    for ridge in (0.1, 1e6):
        monkeypatch.setattr(ease, "RIDGES", (ridge,))
        by_ridge[ridge] = ease_lists(make_catalog(), sequences, prompts, prompts, 3, exclude_history=True)
    assert (by_ridge[0.1] != by_ridge[1e6]).any()
    monkeypatch.setattr(ease, "RIDGES", (0.1, 1e6))
    for lists in by_ridge.values():  # held out is what a penalty lists
        validation = made_prompts([prompts.history[row] for row in range(9)], list(lists))
        found = ease_lists(make_catalog(), sequences, validation, prompts, 3, exclude_history=True)
        np.testing.assert_array_equal(found, lists)
