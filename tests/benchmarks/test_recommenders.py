"""What RecTools is given and gives back; its training is no matter of tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.quality import recommenders
from benchmarks.quality.recommenders import ITEM, TIME, USER, Recommender, fitted, interactions, row_of, top_lists
from blade_dist.batches import MISS, Ragged
from blade_dist.errors import UserError

ROWS = Ragged.of([[4, 2, 9], [7], [1, 3]])


def test_a_row_is_a_user_and_keeps_its_order() -> None:
    table = interactions(ROWS).sample(frac=1, random_state=0).sort_values([USER, TIME])
    assert table.groupby(USER)[ITEM].apply(list).tolist() == [[4, 2, 9], [7], [1, 3]]


def test_validation_is_the_last_item_of_some_users(monkeypatch: pytest.MonkeyPatch) -> None:
    table = interactions(ROWS)
    assert recommenders.validation_mask(table).tolist() == [False, False, True, True, False, True]
    monkeypatch.setattr(recommenders, "VALIDATION_USERS", 2)
    held_out = table[recommenders.validation_mask(table)]
    assert held_out[USER].nunique() == len(held_out) == 2
    assert set(held_out[ITEM]) < {9, 7, 3}


def test_lists_stand_in_the_order_of_their_ranks() -> None:
    class Model:
        """Knows no item of the second row, and has one item for the third."""

        def recommend(self, users: np.ndarray, k: int, filter_viewed: bool, **asked: Any) -> pd.DataFrame:
            assert (users.tolist(), k, filter_viewed) == ([0, 1, 2], 2, True)
            assert asked["dataset"].item_id_map.size == 6
            return pd.DataFrame({USER: [0, 2, 0], ITEM: [8, 5, 6], "rank": [2, 1, 1]})

    pytest.importorskip("rectools")
    assert top_lists(Model(), ROWS, 2).tolist() == [[6, 8], [MISS, MISS], [5, MISS]]


def test_a_row_is_the_mean_of_all_seeds_with_an_interval_over_users() -> None:
    rows = pd.DataFrame({"seed": [0, 0, 1, 1], "user": ["a", "b"] * 2, "hr@5": [1.0, 0.0, 0.5, 0.5]})
    assert row_of(rows) == {"hr@5": {"mean": 0.5, "low": 0.25, "high": 0.75}}


def test_without_the_library_one_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(recommenders, "import_module", missing)
    with pytest.raises(UserError, match=r"rectools\[torch\]"):
        fitted(Recommender.sasrec, ROWS, 1.0, {})
