"""Codes for new items: the nearest that are free, and no item's tokens begin another's."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.catalog.balanced import residual_codes
from blade_dist.catalog.placed import placed_tokens
from blade_dist.catalog.semantic_id import _last_codes
from blade_dist.catalog.trie import build_trie
from blade_dist.errors import UserError


def trained(features: np.ndarray, levels: int, codes: int) -> Ragged:
    """Items' tokens as training makes them: those of level ``l`` begin at ``100 * l``."""
    columns = residual_codes(features, levels, codes, seed=0)
    last = _last_codes(columns)
    rows = [[*(100 * np.arange(levels) + row)] for row in columns]
    return Ragged.of([row + [100 * levels + n] * int(n >= 0) for row, n in zip(rows, last, strict=True)])


def room_by_hand(tokens: Ragged, levels: int) -> int:
    """Leaf by leaf: those that one item has for itself have none."""
    rows = [row.tolist() for row in tokens]
    leaf = max(1, len({row[levels] for row in rows if len(row) > levels}))
    room = 0
    for codes in product(*({row[level] for row in rows} for level in range(levels))):
        there = [row for row in rows if row[:levels] == list(codes)]
        room += 0 if there and len(there[0]) == levels else leaf - len(there)
    return room


@given(st.integers(0, 500), st.integers(2, 40), st.integers(2, 3), st.integers(2, 6), st.integers(0, 30))
@settings(max_examples=25)
def test_tokens_of_old_and_new_items_are_prefix_free(seed: int, items: int, levels: int, codes: int, new: int) -> None:
    rng = np.random.default_rng(seed)
    known, more = (rng.normal(size=(count, 3)).astype(np.float32) for count in (items, new))
    tokens = trained(known, levels, codes)
    assume(new <= room_by_hand(tokens, levels))
    found = placed_tokens(tokens, known, more)
    assert len(found) == new
    assert len(build_trie(Ragged.concat([tokens, found]))) == items + new
    assert set(found.flat.tolist()) <= set(tokens.flat.tolist())


def test_an_item_lands_beside_those_that_it_is_like() -> None:
    rng = np.random.default_rng(0)
    middle = np.array([[10, 0], [-10, 0], [0, 10]], np.float32)
    known = (middle.repeat(8, axis=0) + rng.normal(size=(24, 2))).astype(np.float32)
    tokens = trained(known, 2, 8)
    new = middle.repeat(3, axis=0)
    found = placed_tokens(tokens, known, new)
    nearest = [int(((known - row) ** 2).sum(axis=1).argmin()) for row in new]
    assert [row[0] // 100 for row in found] == [0] * 9
    first = {cluster: {tokens[item][0] for item in range(8 * cluster, 8 * cluster + 8)} for cluster in range(3)}
    assert all(found[n][0] in first[item // 8] for n, item in enumerate(nearest))


def test_last_codes_go_on_where_items_share_theirs() -> None:
    known = np.array([[0.0], [0.0], [5.0], [9.0], [9.0], [9.0]], np.float32)
    tokens = Ragged.of([[0, 10, 20], [0, 10, 21], [1, 10], [1, 11, 20], [1, 11, 21], [1, 11, 22]])
    found = placed_tokens(tokens, known, np.array([[0.0], [0.0], [0.0]], np.float32))
    # beside the two with 0 10 there is room for one; 0 11 is free
    assert [row.tolist() for row in found] == [[0, 10, 22], [0, 11, 20], [0, 11, 21]]
    alone = placed_tokens(tokens, known, np.array([[0.0], [0.0]], np.float32))
    assert [row.tolist() for row in alone] == [[0, 10, 22], [0, 11]]


def test_too_many_are_refused() -> None:
    tokens = Ragged.of([[0, 10], [1, 11]])
    features = np.array([[0.0], [1.0]], np.float32)
    assert len(placed_tokens(tokens, features, features)) == 2
    with pytest.raises(UserError, match="3 items are new, and the semantic IDs have room for 2 more"):
        placed_tokens(tokens, features, np.zeros((3, 1), np.float32))
