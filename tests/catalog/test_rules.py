"""Business rules: legal sets against a reading of the rule that is too slow to use, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog import blocked
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.legal import LegalSets
from blade_dist.catalog.legality import Legality, check_free_items, room_for_all
from blade_dist.catalog.mask import mask_illegal
from blade_dist.catalog.rules import Rules, make_rules
from blade_dist.catalog.terms import Terms
from blade_dist.catalog.trie import Trie, build_trie
from blade_dist.errors import UserError
from blade_dist.evaluation.baselines import popularity_lists
from blade_dist.rollouts.request import RolloutRequest, to_rollouts
from blade_dist.settings import ListSettings
from tests.helpers.catalogs import coded, made_codec, made_prompts

SEPARATOR, END = 90, 91
NAMES = ["A", "B", "C"]


class Case:
    """A small catalog, rules and histories, and the rules word for word."""

    def __init__(
        self,
        items: list[tuple[int, ...]],
        separator: int | None,
        groups: list[set[str]],
        lists: ListSettings,
        known: list[set[int]],
    ):
        self.items, self.groups, self.lists, self.known = items, groups, lists, known
        self.codec = made_codec(items, separator, END)
        self.catalog = catalog_of(groups)
        self.rules = make_rules(lists, self.catalog)

    @property
    def histories(self) -> Ragged:
        return Ragged.of([sorted(row) for row in self.known])

    @property
    def legality(self) -> Legality:
        trie = build_trie(self.codec.item_blocks)
        ranked = None if self.rules is None else self.rules.ranked(trie)
        return Legality(trie, self.lists.k, END, ranked)

    def limit(self, group: str) -> int:
        return self.lists.at_most.get(group, self.lists.at_most.get("*", 99))

    def fits(self, item: int, row: int, chosen: list[int]) -> bool:
        named = {f"i{item}", *(f"group:{name}" for name in self.groups[item])}
        if item in self.known[row] or item in chosen or named & set(self.lists.exclude):
            return False
        return all(sum(name in self.groups[c] for c in chosen) < self.limit(name) for name in self.groups[item])

    def legal(self, row: int, written: list[int]) -> set[int]:
        done, current = self.split(written)
        if len(done) == self.lists.k:
            return {END}
        free = [item for i, item in enumerate(self.items) if self.fits(i, row, done)]
        if not free and self.rules is not None:
            return {END}
        return {item[len(current)] for item in free if item[: len(current)] == current}

    def split(self, written: list[int]) -> tuple[list[int], tuple[int, ...]]:
        done: list[int] = []
        current: tuple[int, ...] = ()
        for token in written:
            current = (*current, token)
            if current in self.items:
                done.append(self.items.index(current))
                current = ()
        return done, current


def catalog_of(groups: list[set[str]]) -> Catalog:
    numbers = range(len(groups))
    rows = [sorted(row) for row in groups]
    return Catalog.build([f"i{n}" for n in numbers], [f"t{n}" for n in numbers], rows, np.ones(len(groups)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Short sequences over few tokens, items in no, one or several groups, and rules of every kind."""
    sequence = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
    sequences = draw(st.lists(sequence, min_size=1, max_size=25, unique=True))
    separator = draw(st.sampled_from([None, SEPARATOR]))
    items = coded(sequences, separator)
    groups = draw(st.lists(st.sets(st.sampled_from(NAMES)), min_size=len(items), max_size=len(items)))
    present = sorted(set().union(*groups))
    named = st.sampled_from([f"i{n}" for n in range(len(items))] + [f"group:{name}" for name in present])
    limited = st.sampled_from([*present, "*"])
    lists = ListSettings(
        k=draw(st.integers(1, 4)),
        exclude=draw(st.lists(named, max_size=2)),
        at_most=draw(st.dictionaries(limited, st.integers(0, 2), max_size=3 if present else 0)),
    )
    known = draw(st.lists(st.sets(st.integers(0, len(items) - 1), max_size=3), min_size=3, max_size=3))
    return Case(items, separator, groups, lists, known)


def tokens_of(sets: LegalSets, trie: Trie, row: int) -> set[int]:
    if sets.node[row] < 0:
        return {int(sets.only[row])}
    assert len(set(sets.gone[row])) == len(sets.gone[row])
    edges = np.setdiff1d(trie.edges_of(sets.node[[row]])[0], sets.gone[row])
    return {int(token) for token in trie.edge_token(edges)}


def write(case: Case, data: Any) -> tuple[list[list[int]], list[list[set[int]]]]:
    """Lists of three users side by side, every legal set looked at; without rules a list may come to a dead end."""
    legality = case.legality
    writers = legality.writers(3)
    writers.start(np.arange(3), case.histories)
    written: list[list[int]] = [[], [], []]
    seen: list[list[set[int]]] = [[], [], []]
    while going := [row for row in range(3) if END not in written[row] and case.legal(row, written[row])]:
        sets = writers.legal(np.array(going))
        for place, row in enumerate(going):
            legal = case.legal(row, written[row])
            assert tokens_of(sets, legality.trie, place) == legal
            assert sets.sizes(legality.trie)[place] == len(legal)
            seen[row].append(legal)
            written[row].append(data.draw(st.sampled_from(sorted(legal))))
        writers.write(np.array(going), np.array([written[row][-1] for row in going]))
    for row in range(3):
        if not case.legal(row, written[row]) and END not in written[row]:
            with pytest.raises(ValueError, match="no item is left for a list"):
                writers.legal(np.array([row]))
    return written, seen


@settings(deadline=None, max_examples=200)
@given(cases(), st.integers(1, 3), st.data())
def test_every_step_allows_exactly_what_the_rules_allow(case: Case, room: int, data: st.DataObject) -> None:
    """Also where sets are forgotten at once, and edges looked at one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "SETS", room)
        patch.setattr(blocked, "EDGES", room)
        written, seen = write(case, data)
        legality, tokens = case.legality, Ragged.of(written)
        again = legality.sets(tokens, case.histories)  # as a learner reads them
    flat = [legal for row in seen for legal in row]
    assert [tokens_of(again, legality.trie, place) for place in range(len(again))] == flat


@settings(deadline=None, max_examples=100)
@given(cases(), st.data())
def test_engines_leave_out_only_what_is_no_decision(case: Case, data: st.DataObject) -> None:
    """Lists that an engine ended early are read, completed, and have the decisions that a learner sees."""
    legality = case.legality
    writers = legality.writers(3, early=True)
    writers.start(np.arange(3), case.histories)
    written: list[list[int]] = [[], [], []]
    going = [0, 1, 2]
    while going:
        going = [row for row in going if END not in written[row] and fits_on(writers, row)]
        for row in going:
            legal = tokens_of(writers.legal(np.array([row])), legality.trie, 0)
            written[row].append(data.draw(st.sampled_from(sorted(legal))))
            writers.write(np.array([row]), np.array(written[row][-1:]))
    whole = [row for row in range(3) if END in written[row]]
    for row in whole:  # the longest lists stop by length, before their end
        if len(case.split(written[row][:-1])[0]) == case.lists.k and data.draw(st.booleans()):
            written[row].pop()
    known = case.histories.take(np.array(whole, dtype=np.int64))
    given_tokens = [written[row] for row in whole]
    request = RolloutRequest(np.array(whole), known, known, np.array(whole), 1, 1.0)
    if not whole:
        return
    logprobs = [[-1.0] * len(tokens) for tokens in given_tokens]
    terms = Terms(case.lists, legality, case.rules, 0)
    rollouts = to_rollouts(request, given_tokens, logprobs, (0, 0), case.codec, terms, 0.0)
    np.testing.assert_array_equal(rollouts.invalid[:, 0], (rollouts.items[:, 0] == MISS).sum(axis=1))
    assert not rollouts.duplicate.any()
    sets = legality.sets(rollouts.tokens, known)
    np.testing.assert_array_equal(rollouts.decision, sets.sizes(legality.trie) > 1)
    for row, items in zip(whole, rollouts.items[:, 0].tolist(), strict=True):
        shown = [item for item in items if item != MISS]
        assert items == shown + [MISS] * (case.lists.k - len(shown))
        assert all(case.fits(item, row, shown[:place]) for place, item in enumerate(shown))
        assert len(shown) == case.lists.k or not any(case.fits(i, row, shown) for i in range(len(case.items)))


def fits_on(writers: Any, row: int) -> bool:
    try:
        writers.legal(np.array([row]))
    except ValueError:
        return False
    return True


@settings(deadline=None)
@given(cases(), st.data())
def test_a_free_text_position_that_breaks_a_rule_is_a_miss(case: Case, data: st.DataObject) -> None:
    item = st.integers(MISS, len(case.items) - 1)
    shape = st.lists(item, min_size=case.lists.k, max_size=case.lists.k)
    rows = data.draw(st.lists(shape, min_size=3, max_size=3))
    masked, invalid, broken = mask_illegal(np.array(rows, np.int32), case.histories, case.rules)
    for row, items in enumerate(rows):
        kept: list[int] = []
        for place, number in enumerate(items):
            repeats = number in items[:place]
            fits = number != MISS and not repeats and case.fits(number, row, [c for c in kept if c != MISS])
            kept.append(number if fits else MISS)
        assert masked[row].tolist() == kept
        assert invalid[row] == items.count(MISS)
        assert broken[row] == kept.count(MISS) - items.count(MISS)


@settings(deadline=None)
@given(cases())
def test_the_popularity_baseline_keeps_the_rules(case: Case) -> None:
    prompts = made_prompts(list(case.histories), [[0]] * 3)
    lists = popularity_lists(case.catalog, prompts, case.lists.k, True, case.rules)
    for row in range(3):
        plain: list[int] = []
        while len(plain) < case.lists.k:
            fitting = [item for item in range(len(case.items)) if case.fits(item, row, plain)]
            if not fitting:
                break
            plain.append(fitting[0])
        assert lists[row].tolist() == plain + [MISS] * (case.lists.k - len(plain))


@settings(deadline=None)
@given(cases(), st.data())
def test_room_is_never_less_than_a_list_takes(case: Case, data: st.DataObject) -> None:
    if case.rules is None:
        return
    room = case.rules.room(case.histories)
    for row in range(3):
        chosen: list[int] = []
        for item in data.draw(st.permutations(range(len(case.items)))):
            if len(chosen) < case.lists.k and case.fits(item, row, chosen):
                chosen.append(item)
        assert room[row] >= len(chosen)


GROUPS: list[set[str]] = [{"Drama"}, {"Drama"}, {"Drama", "Crime"}, {"Crime"}, set()]


def rules_of(k: int, **given: Any) -> Rules | None:
    return make_rules(ListSettings(k=k, **given), catalog_of(GROUPS))


def test_rules_that_no_list_can_break_are_none() -> None:
    assert rules_of(2) is None
    assert rules_of(2, at_most={"Drama": 2, "*": 5}) is None
    rules = rules_of(3, exclude=["i4"], at_most={"*": 1, "Drama": 2})
    assert rules is not None
    assert rules.limit.tolist() == [1, 2]
    assert [rules.groups[item].tolist() for item in range(5)] == [[1], [1], [0, 1], [0], []]
    assert rules.excluded.tolist() == [False] * 4 + [True]


def test_ids_may_be_numbers() -> None:
    assert ListSettings.model_validate({"exclude": [12], "at_most": {1999: 1}}).exclude == ["12"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exclude": ["i44"]}, r"lists\.exclude: there is no item 'i44'; did you mean 'i4'\?"),
        ({"exclude": ["group:Dramas"]}, r"lists\.exclude: there is no group 'Dramas'; did you mean 'Drama'\?"),
        ({"at_most": {"crime": 1}}, r"lists\.at_most: there is no group 'crime'; did you mean 'Crime'\?"),
    ],
)
def test_unknown_names_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rules_of(3, **given)


def test_limits_of_groups_where_there_are_none_are_refused() -> None:
    with pytest.raises(UserError, match=r"lists\.at_most: the catalog has no groups \(data\.columns\.groups\)"):
        make_rules(ListSettings(k=2, at_most={"*": 1}), catalog_of([set()] * 3))


def test_rules_without_room_are_refused() -> None:
    tight = rules_of(4, at_most={"Drama": 1, "Crime": 1})  # one of each, and the item without a group
    with pytest.raises(UserError, match=r"lists\.exclude, lists\.at_most: they leave room for 3 of 5 items in a list"):
        room_for_all(5, 4, tight)
    assert room_for_all(5, 3, tight) == 3
    prompts = made_prompts([[0], [4]], [[1]] * 2)
    check_free_items(prompts, 5, 2, True, tight)
    with pytest.raises(UserError, match=r"user 'u1' has 2 of 5 items outside the history that fit a list under"):
        check_free_items(prompts, 5, 3, True, tight)
    check_free_items(prompts, 5, 3, False, tight)
