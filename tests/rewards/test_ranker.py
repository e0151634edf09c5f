"""A ranker's distributions: the table on disk, and the file that a user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.batches import MISS, Ragged, Ranked
from blade_dist.errors import UserError
from blade_dist.rewards.ranker import RankerTable, mass, write_ranker
from blade_dist.rewards.ranker_file import RankerFile
from tests.helpers.catalogs import ITEMS, made_prompts, make_catalog

NOTHING = np.zeros(ITEMS, dtype=bool)


def test_a_table_gives_back_what_was_written(tmp_path: Path) -> None:
    ranked = Ranked(np.array([[3, 1], [2, MISS], [0, 5]], np.int32), np.array([[-0.5, -1], [-2, -np.inf], [-0.25, -3]]))
    write_ranker(tmp_path / "train.arrow", np.array([2, 5, 9]), ranked, {"k": 3})
    table = RankerTable.load(tmp_path / "train.arrow")
    assert table.stamp == {"k": 3}
    assert table.of(np.array([9, 5, 9])).items.tolist() == [[0, 5], [2, MISS], [0, 5]]
    assert table.of(np.array([2])).scores.tolist() == [[-0.5, -1.0]]
    assert (table.lacks(np.array([5, 2])), table.lacks(np.array([5, 3]))) == (False, True)
    np.testing.assert_allclose(mass(table.ranked), [np.exp(-0.5) + np.exp(-1), np.exp(-2), np.exp(-0.25) + np.exp(-3)])


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.arrow").write_text("{")
    with pytest.raises(UserError, match=r"train\.arrow: damaged .*: delete "):
        RankerTable.load(tmp_path / "train.arrow")


def written(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "scores.parquet")
    return folder / "scores.parquet"


USERS = {
    "user": ["u1", "u0"],
    "items": [["i3", "i1", "i4", "gone"], ["i7", "i2", "i5"]],
    "probabilities": [[0.2, 0.4, 0.0, 0.1], [0.3, 0.3, 0.4]],
}
PROMPTS = made_prompts([[0], [1]], [[4], [5]])


def test_a_file_of_users(tmp_path: Path) -> None:
    """The likeliest first, without what the catalog lacks, what a list may not hold, and what is impossible."""
    file = RankerFile(written(tmp_path, **USERS))
    barred = NOTHING.copy()
    barred[5] = True
    best = file.ranked("test", PROMPTS, make_catalog(), Ragged.of([[0], [1]]), barred, 3)
    assert best.items.tolist() == [[7, 2, MISS], [3, MISS, MISS]]
    np.testing.assert_allclose(np.exp(best.scores), [[0.3, 0.3, 0], [0.2, 0, 0]])
    first = file.ranked("test", PROMPTS, make_catalog(), Ragged.of([[], []]), NOTHING, 1)
    assert first.items.tolist() == [[5], [1]]


def test_a_file_of_prompts(tmp_path: Path) -> None:
    """Of the split that is asked for; ids and numbers may be of any type."""
    whose = {"split": ["test", "train", "train"], "prompt": [0, 1, 0]}
    rows = {"items": [["i1"], ["i2"], ["i3"]], "probabilities": [[1], [1], [1]]}
    file = RankerFile(written(tmp_path, **whose, **rows))
    best = file.ranked("train", PROMPTS, make_catalog(), Ragged.of([[], []]), NOTHING, 2)
    assert best.items[:, 0].tolist() == [3, 2]
    with pytest.raises(
        UserError, match=r"1 of 2 test prompts lack a row, the first is prompt 1, of user 'u1'; write a"
    ):
        file.ranked("test", PROMPTS, make_catalog(), Ragged.of([[], []]), NOTHING, 2)


def test_a_prompt_without_any_legal_item(tmp_path: Path) -> None:
    file = RankerFile(written(tmp_path, **USERS))
    with pytest.raises(
        UserError, match=r"1 of 2 train prompts lack an item that a list may hold, the first is prompt 1"
    ):
        file.ranked("train", PROMPTS, make_catalog(), Ragged.of([[0], [1, 3]]), NOTHING, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": ["u1", "u1"]}, r"row 2 \(user 'u1'\) stands there twice"),
        ({"probabilities": [[0.2, 0.4, 0.0, 0.1], [0.3]]}, r"row 2 \(user 'u0'\) has more items than probabilities"),
        ({"probabilities": [[0.2, 0.4, -1.5, 0.1], [0.3, 0.3, 0.4]]}, r"row 1 .* has a probability that is not from 0"),
        ({"probabilities": [[0.2, 0.4, 0.0, 0.1], [0.3, float("nan"), 0.4]]}, r"row 2 .* is not from 0 to 1"),
        ({"probabilities": [[0.2, 0.4, 0.0, 0.1], [0.3, 0.5, 0.4]]}, r"row 2 .* sum up to more than 1"),
        ({"items": [["i3", "i1", "i4", "i3"], ["i7", "i2", "i5"]]}, r"row 1 .* names an item twice"),
        ({"items": [["i3", None, "i4", "i3"], ["i7", "i2", "i5"]]}, r"a list of items or of probabilities has a gap"),
        ({"items": ["i3", "i1"]}, r"list using function cast_list; write a row for each user"),
        ({"probabilities": [["x"], ["y"]]}, r"Failed to parse .*; write a row for each user"),
    ],
)
def test_a_file_that_is_no_distribution(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^reward\.ranker: .*scores\.parquet: .*{message}"):
        RankerFile(written(tmp_path, **(USERS | change)))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet: no such file; write a row"):
        RankerFile(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("user,items")
    with pytest.raises(UserError, match=r"text\.parquet: not readable as Parquet"):
        RankerFile(tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"no column 'split'; write a row"):
        RankerFile(written(tmp_path, items=[["i1"]], probabilities=[[1.0]]))
    with pytest.raises(UserError, match=r"no column 'probabilities'; write a row"):
        RankerFile(written(tmp_path, user=["u0"], items=[["i1"]]))
