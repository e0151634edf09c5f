"""The trie and the legal sets, against a reading of the rule that is too slow to use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.catalog.legal import LegalSets, ListWriters, replay
from blade_dist.catalog.trie import ROOT, Trie, build_trie
from blade_dist.errors import UserError
from tests.helpers.catalogs import coded

SEPARATOR, END = 90, 91
Catalog = list[tuple[int, ...]]


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Short sequences over few tokens, so that many begin alike; with a separator or prefix-free by themselves."""
    sequence = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
    sequences = draw(st.lists(sequence, min_size=1, max_size=25, unique=True))
    return coded(sequences, draw(st.sampled_from([None, SEPARATOR])))


def trie_of(items: Catalog) -> Trie:
    return build_trie(Ragged.of([list(item) for item in items]))


def legal_by_hand(items: Catalog, excluded: set[int], k: int, written: list[int]) -> set[int]:
    """The rule, word for word."""
    finished, current = items_of(items, written)
    if len(finished) == k:
        return {END}
    free = [item for i, item in enumerate(items) if i not in excluded and item not in finished]
    return {item[len(current)] for item in free if item[: len(current)] == current}


def items_of(items: Catalog, written: list[int]) -> tuple[Catalog, tuple[int, ...]]:
    """The finished ones, and what is written of the next."""
    finished: Catalog = []
    current: tuple[int, ...] = ()
    for token in written:
        current = (*current, token)
        if current in items:
            finished.append(current)
            current = ()
    return finished, current


def tokens_of(sets: LegalSets, trie: Trie, row: int) -> set[int]:
    if sets.node[row] < 0:
        return {int(sets.only[row])}
    edges = np.setdiff1d(trie.edges_of(sets.node[[row]])[0], sets.gone[row])
    return {int(token) for token in trie.edge_token(edges)}


@settings(deadline=None, max_examples=150)
@given(catalogs(), st.integers(1, 3), st.data())
def test_every_step_allows_exactly_what_the_rule_allows(items: Catalog, k: int, data: st.DataObject) -> None:
    trie = trie_of(items)
    k = min(k, len(items))
    spare = len(items) - k
    rows = 3
    excluded = [
        sorted(data.draw(st.sets(st.integers(0, len(items) - 1), max_size=spare), label="excluded"))
        for _ in range(rows)
    ]
    writers = ListWriters(trie, k, END, rows)
    writers.start(np.arange(rows), Ragged.of(excluded))
    written: list[list[int]] = [[] for _ in range(rows)]
    sets_seen: list[list[set[int]]] = [[] for _ in range(rows)]
    while going := [row for row in range(rows) if END not in written[row]]:
        sets = writers.legal(np.array(going))
        sizes = sets.sizes(trie)
        chosen = []
        for place, row in enumerate(going):
            legal = legal_by_hand(items, set(excluded[row]), k, written[row])
            assert tokens_of(sets, trie, place) == legal
            assert sizes[place] == len(legal)
            sets_seen[row].append(legal)
            chosen.append(data.draw(st.sampled_from(sorted(legal)), label="token"))
        writers.write(np.array(going), np.array(chosen))
        for row, token in zip(going, chosen, strict=True):
            written[row].append(token)
    again, read = replay(ListWriters(trie, k, END, rows), Ragged.of(written), Ragged.of(excluded))
    flat = [legal for row in sets_seen for legal in row]
    assert [tokens_of(again, trie, place) for place in range(len(again))] == flat
    assert [[items[i] for i in row] for row in read] == [items_of(items, row)[0] for row in written]


@given(catalogs())
@settings(deadline=None)
def test_the_trie_holds_its_items_in_order(items: Catalog) -> None:
    trie = trie_of(items)
    ordered = sorted(range(len(items)), key=lambda i: items[i])
    assert trie.item.tolist() == ordered
    assert [tuple(trie.token[trie.offset[r] : trie.offset[r + 1]]) for r in range(len(items))] == sorted(items)
    assert (np.diff(trie.edge_key) > 0).all()
    assert trie.node_low[ROOT] == 0
    assert trie.node_high[ROOT] == len(items)


def test_an_item_that_begins_another_may_end_or_go_on() -> None:
    trie = trie_of(coded([(1,), (1, 2), (1, 2, 3)], SEPARATOR))
    writers = ListWriters(trie, 2, END, 1)
    writers.start(np.array([0]), Ragged.of([[1]]))  # (1, 2) is excluded
    slot = np.array([0])
    for token, legal in [(1, {1}), (2, {SEPARATOR, 2}), (3, {3}), (SEPARATOR, {SEPARATOR}), (1, {1})]:
        assert tokens_of(writers.legal(slot), trie, 0) == legal
        writers.write(slot, np.array([token]))
    assert tokens_of(writers.legal(slot), trie, 0) == {SEPARATOR}


def test_slots_move_and_swap() -> None:
    trie = trie_of([(1,), (2, 3), (2, 4)])
    writers = ListWriters(trie, 1, END, 3)
    writers.start(np.arange(3), Ragged.of([[], [1], []]))
    writers.write(np.array([0, 1]), np.array([1, 2]))
    writers.copy(np.array([0, 1]), np.array([1, 0]))
    writers.copy(np.array([1]), np.array([2]))
    sets = writers.legal(np.arange(3))
    assert [tokens_of(sets, trie, row) for row in range(3)] == [{4}, {END}, {END}]


@pytest.mark.parametrize("written", [[7], [1, 2], [2, END], [1, END, 1], [END]])
def test_what_is_not_legal_is_refused(written: list[int]) -> None:
    trie = trie_of([(1,), (2, 3), (2, 4)])
    with pytest.raises(ValueError, match="not written under this trie"):
        replay(ListWriters(trie, 1, END, 1), Ragged.of([written]), Ragged.of([[]]))


def test_a_list_without_items_left_is_refused() -> None:
    trie = trie_of([(1,), (2,)])
    with pytest.raises(ValueError, match=r"lists\.k is larger"):
        replay(ListWriters(trie, 2, END, 1), Ragged.of([[1, 2]]), Ragged.of([[1]]))


def test_items_that_are_equal_empty_or_begin_others_are_refused() -> None:
    with pytest.raises(UserError, match="items 0 and 2: the tokens of the one are, or begin, the other's"):
        build_trie(Ragged.of([[1, 2], [1, 3], [1, 2], [4]]))
    with pytest.raises(UserError, match="items 2 and 1: the tokens of the one are, or begin, the other's"):
        build_trie(Ragged.of([[4], [1, 3], [1]]))
    with pytest.raises(UserError, match="item 1: no tokens"):
        build_trie(Ragged.of([[1, 2], [], [3]]))


def test_a_saved_trie_is_mapped_back(tmp_path: Path) -> None:
    trie = trie_of([(1, 4), (1, 2), (2, 2), (2, 3)])
    trie.save(tmp_path)
    again = Trie.load(tmp_path)
    assert isinstance(again.token, np.memmap)
    for name, array in vars(trie).items():
        np.testing.assert_array_equal(array, getattr(again, name))


def test_an_engine_stops_when_the_last_item_is_settled() -> None:
    trie = trie_of([(1, 5, 6), (2, 3), (2, 4)])
    writers = ListWriters(trie, 2, END, 1, early=True)
    slot = np.array([0])
    writers.start(slot, Ragged.of([[]]))
    for token, legal in [(2, {1, 2}), (3, {3, 4}), (1, {1, 2}), (END, {END}), (END, {END})]:
        assert tokens_of(writers.legal(slot), trie, 0) == legal
        writers.write(slot, np.array([token]))
    assert writers.items(slot).tolist() == [[1, 0]]
