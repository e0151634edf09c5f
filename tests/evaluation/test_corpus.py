"""Metrics over all lists, and where they must agree with those of a list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from blade_dist.batches import MISS, Ragged
from blade_dist.evaluation.corpus import corpus_metrics, illegal_rates
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import METRICS
from tests.helpers.catalogs import ITEMS, batches, make_catalog


@settings(deadline=None)
@given(batches())
def test_a_corpus_of_one_list_is_as_fair_as_the_list(lists: Lists) -> None:
    one = Lists(lists.items[:1], lists.targets.take(np.array([0])), lists.history.take(np.array([0])), lists.catalog)
    found = corpus_metrics(one)
    assert found["corpus_mgu"] == pytest.approx(float(METRICS["mgu"](one, 5)[0]))
    assert found["corpus_dgu"] == pytest.approx(float(METRICS["dgu"](one, 5)[0]))


@settings(deadline=None)
@given(batches())
def test_corpus_metrics_are_bounded(lists: Lists) -> None:
    found = corpus_metrics(lists)
    assert all(-1e-12 <= value <= (2 if name == "corpus_dgu" else 1) + 1e-9 for name, value in found.items())


def test_misses_do_not_look_fair() -> None:
    catalog, row = make_catalog(), Ragged.of([[3]])
    filled = corpus_metrics(Lists(np.array([[3, 3, 3]], np.int32), row, row, catalog))
    missed = corpus_metrics(Lists(np.array([[3, MISS, MISS]], np.int32), row, row, catalog))
    assert filled["corpus_mgu"] == filled["corpus_dgu"] == 0
    # a: 1/3 instead of 1, and 2/3 in none of the three groups; the spread: 0 to -2/3, plus the misses
    assert missed["corpus_mgu"] == pytest.approx((2 / 3 + 2 / 3) / 3)
    assert missed["corpus_dgu"] == pytest.approx(4 / 3)


def test_gini_is_the_mean_difference() -> None:
    items = np.array([[0, 1, 2], [0, 1, 3], [0, 4, 5]], np.int32)
    row = Ragged.of([[0]] * 3)
    counts = np.bincount(items.reshape(-1), minlength=ITEMS)
    expected = np.abs(np.subtract.outer(counts, counts)).mean() / counts.mean() / 2
    assert corpus_metrics(Lists(items, row, row, make_catalog()))["gini"] == pytest.approx(expected)


def test_nothing_recommended_is_not_a_number_of_anything() -> None:
    row = Ragged.of([[3]])
    found = corpus_metrics(Lists(np.full((1, 2), MISS, np.int32), row, row, make_catalog()))
    assert (found["coverage"], found["gini"], found["entropy"], found["miss"]) == (0, 0, 0, 1)


def test_illegal_positions_by_kind() -> None:
    rates = illegal_rates(np.array([[1, 0], [0, 2]], np.int32), np.array([[0, 0], [3, 0]], np.int32), k=5)
    assert rates == {"invalid": 3 / 20, "duplicate": 3 / 20}
