"""Numbers of items that were never trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blade_dist.batches import MISS, Ragged
from blade_dist.evaluation.cold import ASKED, HIT, LISTED, cold_numbers
from blade_dist.evaluation.corpus import corpus_metrics
from blade_dist.rewards.lists import Lists
from tests.helpers.catalogs import ITEMS, make_catalog

COLD = np.isin(np.arange(ITEMS), [7, 8])


def lists(items: list[list[int]], targets: list[list[int]]) -> Lists:
    return Lists(np.array(items, np.int32), Ragged.of(targets), Ragged.of([[0]] * len(items)), make_catalog())


def test_what_is_listed_asked_for_and_hit_is_counted() -> None:
    found = cold_numbers(lists([[7, 3], [1, 8]], [[7, 5], [8, 7]]), COLD)
    assert found == pytest.approx({LISTED: 2 / 4, ASKED: 3 / 4, HIT: 2 / 3})
    # a cold item that nobody asked for, and a miss, which is no item
    found = cold_numbers(lists([[7, MISS], [5, MISS]], [[5], [5]]), COLD)
    assert found == {LISTED: 1 / 4, ASKED: 0, HIT: 0}


def test_cold_is_what_may_be_listed_and_was_not_trained_on() -> None:
    never = replace(make_catalog(), popularity=np.where(COLD, 0, 1))
    assert np.flatnonzero(never.cold).tolist() == [7, 8]
    gone = np.isin(np.arange(ITEMS), [3, 8])
    assert np.flatnonzero(replace(never, withdrawn=gone).cold).tolist() == [7]


def test_what_is_withdrawn_is_no_part_of_the_coverage() -> None:
    shown = lists([[0, 1], [2, 3]], [[5], [5]])
    gone = replace(shown, catalog=replace(shown.catalog, withdrawn=np.arange(ITEMS) >= 8))
    assert corpus_metrics(shown)["coverage"] == 4 / ITEMS
    assert corpus_metrics(gone)["coverage"] == 4 / 8
    assert corpus_metrics(gone)["gini"] == pytest.approx(0.5)
