"""Ragged arrays, shards and seeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.data.seeds import prompts_of_step, stable_seed
from blade_dist.training.pipeline import StepPipeline
from blade_dist.weights.push import largest_gap
from blade_dist.weights.transports import choose_transport
from tests.helpers.ranks import make_batch

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=6)


@given(ROWS, st.data())
def test_ragged_takes_and_joins_rows(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.of(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    assert [row.tolist() for row in ragged.take(np.array(chosen, dtype=np.int64))] == [rows[i] for i in chosen]
    joined = Ragged.concat([ragged, ragged])
    assert [row.tolist() for row in joined] == rows + rows


@given(ROWS)
def test_distinct_keeps_the_first_of_equals(rows: list[list[int]]) -> None:
    ragged = Ragged.of(rows)
    assert [row.tolist() for row in ragged.distinct()] == [list(dict.fromkeys(row)) for row in rows]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=6))
def test_ranges_stand_row_after_row(rows: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    assert offsets_of(lengths).tolist() == [sum(lengths[:i]) for i in range(len(rows) + 1)]
    assert ranges(starts, lengths).tolist() == [n for start, length in rows for n in range(start, start + length)]


def test_a_shard_keeps_its_groups() -> None:
    rollouts = make_batch().rollouts
    part = rollouts.take(np.array([4, 1]))
    group = rollouts.items.shape[1]
    for position, prompt in enumerate((4, 1)):
        for number in range(group):
            np.testing.assert_array_equal(
                part.tokens[position * group + number], rollouts.tokens[prompt * group + number]
            )
    assert part.digests().tolist() == rollouts.digests()[[4, 1]].tolist()
    starts = rollouts.tokens.offsets
    np.testing.assert_array_equal(
        part.logprobs[: part.tokens.lengths[0]], rollouts.logprobs[starts[4 * group] : starts[4 * group + 1]]
    )


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 50))
def test_every_pass_uses_every_prompt_once(size: int, per_step: int) -> None:
    steps = size  # size * per_step draws: per_step whole passes
    drawn = np.concatenate([prompts_of_step(3, step, size, per_step) for step in range(steps)])
    assert (np.bincount(drawn, minlength=size) == per_step).all()


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 9))
def test_a_step_requests_no_prompt_twice(size: int, per_step: int, step: int) -> None:
    """It would get the same lists; the order stays."""
    config = SimpleNamespace(run=SimpleNamespace(seed=3), train=SimpleNamespace(prompts_per_step=per_step))
    known = 100 + np.arange(size)
    requested = StepPipeline._prompts(cast(StepPipeline, SimpleNamespace(_config=config, _rows=known)), step)
    drawn = 100 + prompts_of_step(3, step, size, per_step)
    assert requested.tolist() == list(dict.fromkeys(drawn.tolist()))


def test_seeds_are_stable_and_apart() -> None:
    assert stable_seed(0, "step", 1, 2) == stable_seed(0, "step", 1, 2)
    seeds = {stable_seed(run, step, prompt) for run in range(3) for step in range(9) for prompt in range(40)}
    assert len(seeds) == 3 * 9 * 40
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert min(np.diff(sorted(seeds))) > 1000


@pytest.mark.parametrize(
    ("wanted", "gpus", "shared", "chosen"),
    [
        ("auto", False, False, "gloo"),
        ("auto", True, True, "ipc"),
        ("auto", True, False, "nccl"),
        ("gloo", True, True, "gloo"),
    ],
)
def test_the_transport_follows_the_machine(wanted: str, gpus: bool, shared: bool, chosen: str) -> None:
    assert choose_transport(wanted, gpus, shared) == chosen


def test_a_gap_that_is_no_number_is_infinite() -> None:
    assert largest_gap(np.array([-1.0, -2.0]), np.array([-1.0, -2.5])) == pytest.approx(0.5)
    assert largest_gap(np.array([-1.0]), np.array([np.nan])) == np.inf
