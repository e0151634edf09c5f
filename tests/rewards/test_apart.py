"""A function of the user's that is called in a process of its own: whatever it does, the command goes on or says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blade_dist.batches import Ragged
from blade_dist.errors import UserError
from blade_dist.rewards.apart import Apart
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.given import GivenLists
from blade_dist.rewards.lists import Lists
from blade_dist.store.arrow import read_table
from tests.helpers.catalogs import make_catalog

NAME = "by_length:score"
MODULE = """
import multiprocessing, os, signal, sys, time

def score(lists):
    ends = {
        2: lambda: os._exit(7),
        3: lambda: os.kill(os.getpid(), signal.SIGSEGV),
        4: lambda: time.sleep(600),
        5: lambda: sys.exit(3),
        6: lambda: lists.users.price,
        9: lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    }
    ends.get(len(lists), lambda: None)()
    return lists.items[:, 0] + len(lists.catalog) + os.getpid() * (len(lists) == 7)
"""


@pytest.fixture
def composite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Composite:
    (tmp_path / "by_length.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    given = GivenLists(tmp_path / "incidents", "command")
    return Composite({NAME: 1.0}, make_catalog(), 3, given=given, own=Apart(2.0).function)


def lists(count: int) -> Lists:
    rows = Ragged.of([[0]] * count)
    return Lists(np.tile(np.array([4, 1, 2], np.int32), (count, 1)), rows, rows, make_catalog())


def test_its_scores_are_those_of_a_call_here(composite: Composite) -> None:
    expected = 4.0 + len(make_catalog())
    for count in (1, 9, 8, 1):
        assert composite.score(lists(count))[0].tolist() == [expected] * count
    first, second = (composite.score(lists(7))[0] for _ in range(2))
    assert first[0] == second[0]  # of one process
    assert first[0] > expected


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (2, "it ended its process with exit code 7; let it raise an error instead"),
        (3, "its process was ended by SIGSEGV; let it raise an error instead"),
        (4, "did not answer within reward.timeout_s = 2 s; make it faster, or raise that setting"),
        (5, "raised SystemExit: 3"),
        (6, "raised AttributeError: 'NoneType' object has no attribute 'price'"),
    ],
)
def test_its_end_is_one_line_with_its_lists(composite: Composite, tmp_path: Path, count: int, message: str) -> None:
    composite.score(lists(1))  # so that the process is there
    with pytest.raises(UserError) as error:
        composite.score(lists(count))
    (file,) = (tmp_path / "incidents").iterdir()
    assert str(error.value) == f"reward.weights {NAME}: {message}; it was called with the lists in {file}"
    assert len(read_table(file)) == count
    assert len(composite.score(lists(1))[0]) == 1  # by the process, or by a new one
