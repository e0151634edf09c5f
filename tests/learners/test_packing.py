"""Blocks, rows and micro-batches: every list token once, in its place, within the budget."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.learners.attention import visible
from blade_dist.learners.packing import (
    PADDING,
    MicroBatch,
    PromptLists,
    collate,
    idle_microbatch,
    in_step,
    microbatches,
)


@st.composite
def sequences(draw: st.DrawFn) -> PromptLists:
    """Some prompts with some lists each, of different lengths."""
    lists = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    owner = np.repeat(np.arange(len(lists)), lists)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    prompt = Ragged.of([rng.integers(2, 50, rng.integers(1, 9)) for _ in lists])
    tokens = Ragged.of([rng.integers(2, 50, rng.integers(1, 5)) for _ in owner])
    return PromptLists(prompt, tokens, owner)


def sequence_of(batch: MicroBatch, row: int, column: int) -> list[int]:
    """The tokens that a place sees, by the rule, in the order of their positions."""
    keys = torch.arange(batch.input_ids.shape[1])
    here = torch.tensor(row), torch.tensor(0), torch.tensor(column), keys
    seen = torch.nonzero(visible(batch, None)(*here))[:, 0]
    order = seen[torch.argsort(batch.position[row, seen])]
    assert batch.position[row, order].tolist() == list(range(len(order)))
    return batch.input_ids[row, order].tolist()


@settings(deadline=None)
@given(sequences(), st.integers(1, 60), st.booleans())
def test_every_token_is_predicted_once_from_its_own_sequence(batch: PromptLists, budget: int, shared: bool) -> None:
    seen = np.zeros(len(batch.tokens.flat), dtype=int)
    for cut in microbatches(batch, budget, shared):
        micro = collate(batch, cut, pad=0)
        for place, label, flat in zip(micro.place, micro.label, micro.flat, strict=True):
            row, column = divmod(int(micro.wanted[place]), cut.shape[1])
            number = int(np.searchsorted(batch.tokens.offsets, int(flat), side="right")) - 1
            before = batch.tokens.flat[batch.tokens.offsets[number] : int(flat)]
            expected = [*batch.prompt[batch.owner[number]].tolist(), *before.tolist()]
            assert sequence_of(micro, row, column) == expected
            assert int(label) == batch.tokens.flat[int(flat)]
            seen[int(flat)] += 1
        assert micro.packed == (len(cut.first) > cut.shape[0] or bool((cut.stop - cut.first > 1).any()))
    assert (seen == 1).all()


@settings(deadline=None)
@given(sequences(), st.integers(1, 60), st.booleans())
def test_microbatches_keep_the_budget(batch: PromptLists, budget: int, shared: bool) -> None:
    for cut in microbatches(batch, budget, shared):
        assert cut.shape[0] == 1 or cut.shape[0] * cut.shape[1] <= budget
        if cut.shape[0] * cut.shape[1] > budget:  # one list, with its prompt, is the least that a block can hold
            assert (cut.stop - cut.first).tolist() == [1]


def test_prompts_share_rows() -> None:
    prompt = Ragged.of([[1] * 8, [2] * 2, [3] * 3])
    tokens = Ragged.of([[4, 4], [5], [6]])
    (cut,) = microbatches(PromptLists.single(prompt, tokens), 100, shared=True)
    assert cut.shape == (2, 9)
    micro = collate(PromptLists.single(prompt, tokens), cut, pad=0)
    assert micro.segment[1].tolist() == [1, 1, 1, 2, 2, PADDING, PADDING, PADDING, PADDING]
    assert micro.packed


def test_ranks_are_kept_in_step() -> None:
    nothing = PromptLists.single(Ragged.of([]), Ragged.of([]))
    assert microbatches(nothing, 10, shared=True) == []
    idle = list(in_step([], nothing, pad=0, count=3))
    assert len(idle) == 3
    assert all(len(batch.flat) == 0 and len(batch.label) == 1 for batch in idle)
    assert idle_microbatch(5).input_ids.tolist() == [[5, 5]]
