"""What fine-tuning is shown: every transition once in a pass, as it is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.learners.packing import collate, microbatches
from blade_dist.learners.soft_labels import SoftLabels
from blade_dist.training.windows import Windows, continued_lists, training_rows


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 12), st.integers(0, 5))
def test_every_item_but_the_first_is_predicted_once_in_a_pass(lengths: list[int], width: int, turn: int) -> None:
    windows = Windows(np.array(lengths), width, seed=3)
    user, start, stop = windows.bounds(np.arange(len(windows)), turn)
    assert ((stop - start >= 2) & (stop - start <= width + 1)).all()
    assert (stop <= np.array(lengths)[user]).all()
    predicted = [(owner, item) for owner, a, b in zip(user, start, stop, strict=True) for item in range(a + 1, b)]
    assert sorted(predicted) == [(owner, item) for owner, size in enumerate(lengths) for item in range(1, size)]


def test_windows_are_cut_elsewhere_in_another_pass() -> None:
    windows = Windows(np.array([30, 31]), 8, seed=0)
    starts = {tuple(windows.bounds(np.arange(len(windows)), turn)[1]) for turn in range(6)}
    assert len(starts) > 3


def codec(separator: int | None, prefix: list[int], suffix: list[int]) -> Codec:
    source: Any = None
    items = Ragged.of([[10], [11, 12], [13], [14, 15]])
    parts = {"prefix": np.array(prefix, np.int32), "suffix": np.array(suffix, np.int32)}
    return Codec(kind="title", source=source, item_tokens=items, separator=separator, end=8, pad=9, **parts)


def test_a_sequence_reads_as_a_prompt_with_its_list() -> None:
    rows = training_rows(codec(1, [5, 6], [7]), Ragged.of([[0, 1, 3, 2], [2, 3]]), np.array([2, 1]))
    assert [row.tolist() for row in (rows.prompt[0], rows.prompt[1])] == [[5, 6, 10, 1], [5, 6, 13, 1]]
    assert rows.tokens[0].tolist() == [11, 12, 1, 7, 14, 15, 1, 13, 1]
    assert rows.tokens[1].tolist() == [7, 14, 15, 1]
    assert np.flatnonzero(~rows.decision).tolist() == [3, 9]  # the prompt's text


@given(st.integers(0, 1000))
def test_it_is_what_the_codec_writes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    written = codec(
        1, rng.integers(20, 30, rng.integers(0, 3)).tolist(), rng.integers(20, 30, rng.integers(0, 3)).tolist()
    )
    items = Ragged.of([rng.integers(0, 4, rng.integers(2, 7)) for _ in range(3)])
    splits = rng.integers(1, items.lengths)
    rows = training_rows(written, items, splits)
    for row in range(3):
        whole = [*rows.prompt[row], *rows.tokens[row]]
        known, later = items[row][: splits[row]], items[row][splits[row] :]
        follows = written.item_blocks.take(later.astype(np.int64)).flat
        assert whole == [*written.encode_prompt(known), *follows]


def test_an_item_that_comes_again_counts_only_where_a_list_may_hold_it() -> None:
    items, splits = Ragged.of([[0, 1, 0, 2, 1], [2, 0]]), np.array([1, 1])
    rows = training_rows(codec(None, [], [7]), items, splits, repeats=False)
    assert rows.tokens[0].tolist() == [7, 11, 12, 10, 13, 11, 12]
    assert rows.decision.tolist() == [False, True, True, False, True, False, False, False, True]
    assert training_rows(codec(None, [], [7]), items, splits).decision.sum() == 7


def marked() -> Codec:
    """An item is 10 to 13 in a list, 30 to 33 in a history."""
    plain = codec(None, [5], [])
    tokens = [Ragged.of([[first + item] for item in range(4)]) for first in (10, 30)]
    return replace(plain, item_tokens=tokens[0], shown_tokens=tokens[1])


def test_a_history_is_read_as_shown_and_predicts_what_a_list_writes() -> None:
    rows = training_rows(marked(), Ragged.of([[2, 0, 3]]), np.array([1]))
    assert rows.prompt[0].tolist() == [5, 32]
    assert rows.tokens[0].tolist() == [30, 33]
    assert rows.predicted.tolist() == [10, 13]


def test_a_list_goes_on_from_its_history() -> None:
    lists = continued_lists(marked(), Ragged.of([[2, 0, 3], [1, 2]]), np.array([2, 1]), np.array([[1, 3], [2, 1]]))
    assert [row.tolist() for row in lists.prompt] == [[5, 32, 30], [5, 31]]
    assert [row.tolist() for row in lists.tokens] == [[10, 10, 10, 10], [10, 10, 10]]
    assert lists.decision.tolist() == [True, True, False, True, True, True, True]
    nothing = continued_lists(marked(), Ragged.of([]), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
    assert len(nothing) == len(nothing.decision) == 0


def test_soft_labels_stand_beside_the_item_that_they_are_about() -> None:
    """The prompt's text among the items has none, and a row's first item is no label."""
    items, splits = Ragged.of([[0, 2], [2, 0, 2]]), np.array([1, 2])
    soft = SoftLabels(np.arange(20, 25)[:, None], np.array([[0], [0.1], [0], [0.3], [0.4]], np.float32))
    rows = training_rows(codec(None, [5], [7]), items, splits, soft=soft)
    found = {}
    for cut in microbatches(rows, 16, True):
        batch = collate(rows, cut, pad=9)
        assert batch.share is not None
        found |= {tuple(label): share for label, share in zip(batch.label.tolist(), batch.share.tolist(), strict=True)}
    expected = {(13, 21): [0.9, 0.1], (10, 23): [0.7, 0.3], (13, 24): [0.6, 0.4]}
    assert found.keys() == expected.keys()
    for labels, shares in expected.items():
        np.testing.assert_allclose(found[labels], shares, rtol=1e-6)
