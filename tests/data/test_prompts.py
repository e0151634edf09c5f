"""The prompt table: what is written is read, in any order, over any batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from blade_dist.batches import Ragged
from blade_dist.data.prompts import PromptTable, write_prompts
from blade_dist.data.split import Views
from blade_dist.errors import UserError
from blade_dist.store.arrow import write_table


def _batch(first: int, size: int) -> tuple[pa.Array, Ragged, Ragged, Views]:
    """Row n has seen 0, 1, ..., n - 1; all rows share these numbers."""
    rows = np.arange(first, first + size)
    users, history = pa.array([f"u{n}" for n in rows], pa.string()), Ragged.of([list(range(n % 4)) for n in rows])
    seen = Views(np.arange(50, dtype=np.int32), np.zeros(size, np.int64), rows)
    return users, history, Ragged.of([[n, n + 1] for n in rows]), seen


def test_rows_come_in_the_order_of_the_request(tmp_path: Path) -> None:
    path = tmp_path / "train.arrow"
    assert write_prompts(path, [_batch(0, 3), _batch(3, 0), _batch(3, 4)]) == 7
    table = PromptTable.load(path)
    assert len(table) == 7
    index = np.array([6, 0, 3, 2, 6])
    prompts = table.rows(index)
    assert prompts.index.tolist() == index.tolist()
    assert prompts.user.tolist() == ["u6", "u0", "u3", "u2", "u6"]
    assert [prompts.history[n].tolist() for n in range(5)] == [list(range(i % 4)) for i in index]
    assert [prompts.targets[n].tolist() for n in range(5)] == [[i, i + 1] for i in index]
    assert [prompts.seen[n].tolist() for n in range(5)] == [list(range(i)) for i in index]
    assert prompts.history.flat.dtype == prompts.seen.flat.dtype == np.int32
    assert [table.most_excluded(which) for which in (True, "shown", False)] == [6, 3, 0]
    assert prompts.take(np.array([0])).excluded(True)[0].tolist() == list(range(6))
    assert prompts.excluded("shown") is prompts.history
    again = replace(prompts, history=Ragged.of([[1, 2, 1], [], [3, 3], [0], [2]])).excluded("shown")
    assert [row.tolist() for row in again] == [[1, 2], [], [3], [0], [2]]
    assert (len(prompts.excluded(False)), len(prompts.excluded(False).flat)) == (5, 0)
    assert len(table.rows(np.zeros(0, np.int64))) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["train.arrow"]


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    table = pa.table({"user": ["a"], "history": [[1]], "targets": [[2]]})
    write_table(table, tmp_path / "data" / "train.arrow")
    with pytest.raises(UserError, match=r"another version of blade_dist \(columns user, history, targets; here user, "):
        PromptTable.load(tmp_path / "data" / "train.arrow")


def test_users_have_a_number_each(tmp_path: Path) -> None:
    write_prompts(tmp_path / "t.arrow", [_batch(0, 3), _batch(1, 4)])  # u0 u1 u2, u1 u2 u3 u4
    table = PromptTable.load(tmp_path / "t.arrow")
    index = np.array([4, 1, 2, 6, 3, 0, 1])
    numbers = table.user_numbers(index)
    assert numbers.dtype == np.int64
    _, codes = np.unique(table.rows(index).user, return_inverse=True)
    np.testing.assert_array_equal(numbers[:, None] == numbers, codes[:, None] == codes)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_index_outside_is_refused(tmp_path: Path, wrong: int) -> None:
    write_prompts(tmp_path / "t.arrow", [_batch(0, 3)])
    with pytest.raises(IndexError, match="prompts 0 to 2"):
        PromptTable.load(tmp_path / "t.arrow").rows(np.array([0, wrong]))


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 0), ("c", 1)):
        write_prompts(tmp_path / name, [_batch(first, 3)])
    a, b, c = (PromptTable.load(tmp_path / name).fingerprint() for name in "abc")
    assert a == b != c


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    assert write_prompts(tmp_path / "t.arrow", []) == 0
    assert len(PromptTable.load(tmp_path / "t.arrow")) == 0
