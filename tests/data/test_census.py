"""How many users are left at each stage, and what is said where many teach nothing."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.data.census import describe_users, freed_by_min_history, wasted
from blade_dist.data.distinct import DistinctIds
from blade_dist.data.partition import ReadCounts
from blade_dist.data.split import leave_last
from blade_dist.settings import DataSettings


@given(st.lists(st.lists(st.text("abc", min_size=1, max_size=3), max_size=20), max_size=6))
def test_different_ids_are_counted_over_blocks(blocks: list[list[str]]) -> None:
    ids = DistinctIds()
    for block in blocks:
        ids.add(pa.chunked_array([pa.array(block, pa.string())]))
    assert len(ids) == len({name for block in blocks for name in block})


def test_many_different_ids_are_counted() -> None:
    ids = DistinctIds()
    for first in range(0, 300_000, 50_000):
        ids.add(pa.chunked_array([pa.array([f"u{n}" for n in range(first, first + 100_000)])]))
    assert len(ids) == 350_000


READ = ReadCounts(users=100, users_low_rating=5, users_without_title=2, users_with_one_item=10)


def _said(data: DataSettings, left: int, taught: int, prompts: int, freed: int = 0) -> list[str]:
    users = describe_users(READ, left, taught, {"train": prompts, "validation": 1, "test": 1})
    assert sum(users[f"dropped_{why}"] for why in ("by_min_rating", "without_title", "by_k_core")) + left == 100
    return wasted(data, users, freed)


def test_little_waste_is_not_said() -> None:
    assert _said(DataSettings(), left=93, taught=90, prompts=81) == []


@pytest.mark.parametrize(
    ("data", "left", "taught", "message"),
    [
        # 93 users come to k_core, 10 of them with one item; 50 stay, so that it could keep 33 with two or more
        (DataSettings(), 50, 50, "50 of 100 users teach nothing, .*: data.k_core=0 would keep up to 33 of them"),
        (DataSettings(k_core=0, min_rating=3), 93, 83, "17 of 100 .*: data.min_rating=null would keep up to 5 of them"),
        (DataSettings(k_core=0, split="global_time"), 93, 60, "40 of 100 .*: data.split=leave_last .* 23 of them; 10 "),
    ],
)
def test_what_would_keep_most_users_is_named(data: DataSettings, left: int, taught: int, message: str) -> None:
    (line,) = _said(data, left, taught, prompts=taught)
    assert re.match(message, line), line
    assert line.endswith("10 have one item")


def test_users_without_a_prompt_are_said_beside_those_without_a_sequence() -> None:
    (line,) = _said(DataSettings(k_core=0), left=93, taught=91, prompts=30, freed=40)
    assert line.startswith("61 of 91 users with a training sequence have no training prompt")
    assert line.endswith("data.min_history=1 would give 40 of them one")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 4), st.integers(1, 5))
def test_who_would_have_a_prompt_with_a_shorter_history(lengths: list[int], targets: int, least: int) -> None:
    """Counted by the definition: users with two training items, a prompt with the shorter history and none now."""
    data, sizes = DataSettings(targets=targets, min_history=least), np.array(lengths)
    now, then = (leave_last(sizes, targets, floor).train_end for floor in (least, 1))
    expected = sum(2 <= ends <= least and other > 1 for ends, other in zip(now, then, strict=True))
    assert freed_by_min_history(data, sizes, now) == expected
