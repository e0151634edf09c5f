"""The lists that a function fails at are kept, and what it prints does not fill a disk."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from blade_dist.batches import MISS, Ragged
from blade_dist.errors import UserError
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.given import PRINTED, GivenLists, newest_kept
from blade_dist.rewards.lists import Lists
from blade_dist.store.arrow import read_table
from tests.helpers.catalogs import make_catalog


def lists() -> Lists:
    items = np.array([[0, 2], [3, MISS]], np.int32)
    return Lists(items, Ragged.of([[1], [5, 6]]), Ragged.of([[], [4]]), make_catalog(), np.array(["u", "v"], object))


def raises(lists: Lists) -> np.ndarray:
    raise KeyError("price")


def not_a_number(lists: Lists) -> np.ndarray:
    return np.full(len(lists), np.nan)


def prints(lists: Lists) -> np.ndarray:
    sys.stdout.write("x" * 10**6)
    return np.ones(len(lists))


@pytest.mark.parametrize("name", ["raises", "not_a_number"])
def test_a_function_that_fails_leaves_the_lists_that_it_was_given(name: str, tmp_path: Path) -> None:
    given, own = GivenLists(tmp_path / "incidents", "train"), f"{__name__}:{name}"
    with pytest.raises(UserError, match="it was called with the lists in") as error:
        Composite({own: 1.0}, make_catalog(), 2, given=given).score(lists())
    assert own in str(error.value)
    assert str(given.file) in str(error.value)
    table = read_table(given.file)
    assert table.schema.metadata[b"function"] == own.encode()
    assert table.to_pydict() == {
        "user": ["u", "v"],
        "items": [["i0", "i2"], ["i3", None]],
        "targets": [["i1"], ["i5", "i6"]],
        "history": [[], ["i4"]],
    }
    assert newest_kept(tmp_path / "incidents", "train", 0.0) == f"{own} was called with the lists in {given.file}"
    assert given.function is None


def test_a_function_that_works_leaves_nothing(tmp_path: Path) -> None:
    given = GivenLists(tmp_path, "train")
    with given.kept("mine:f", lists()):
        assert given.function == "mine:f"
        assert given.file.exists()
    assert given.function is None
    assert not list(tmp_path.iterdir())
    assert newest_kept(tmp_path, "train", 0.0) == ""


def test_the_file_of_the_process_that_ended_last_is_named(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new")):
        given = GivenLists(tmp_path, "train")
        given.file = tmp_path / f"lists-train-{9 - number}.arrow"
        with pytest.raises(RuntimeError), given.kept(f"mine:{name}", lists()):
            raise RuntimeError
        time.sleep(0.02)
    assert newest_kept(tmp_path, "train", 0.0).startswith("mine:new was called")
    assert newest_kept(tmp_path, "train", time.time() + 1) == ""  # it is of an earlier run


def test_a_megabyte_of_print_is_cut_short_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    own = f"{__name__}:prints"
    total, _ = Composite({own: 1.0}, make_catalog(), 2, given=GivenLists(tmp_path, "train")).score(lists())
    assert total.tolist() == [1, 1]
    assert capsys.readouterr().out == "x" * PRINTED
    assert f"{own} printed 1000000 characters in one call" in caplog.text
