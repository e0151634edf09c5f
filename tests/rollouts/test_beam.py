"""Beam search's bookkeeping, against the enumeration of all lists of a small catalog."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.rules import make_rules
from blade_dist.catalog.trie import build_trie
from blade_dist.rollouts.beam import Beams
from blade_dist.rollouts.constrain import LegalMask
from blade_dist.settings import ListSettings
from tests.helpers.catalogs import coded

SEPARATOR, END, VOCAB = 8, 9, 10
Items = list[tuple[int, ...]]
ITEMS = [(0,), (0, 1), (0, 2), (3,), (4, 5), (4, 6)]
CODES = [(0, 7), (0, 1), (0, 2), (3,), (4, 5), (4, 6)]
CATALOGS = st.sampled_from([coded(ITEMS, SEPARATOR), CODES, [(0,), (1,), (2,), (3,), (4,)]])


def next_logprobs(seed: int, prompt: int, written: list[int], legal: np.ndarray) -> dict[int, float]:
    """An invented model: the log-probs depend on all that stands before, renormalised over the legal tokens."""
    logits = np.random.default_rng([seed, prompt, len(written), *written]).normal(size=VOCAB) * 2
    logits[~legal] = -np.inf
    logits -= np.log(np.exp(logits).sum())
    return {token: float(logits[token]) for token in range(VOCAB)}


def legality(items: Items) -> Legality:
    return Legality(build_trie(Ragged.of([list(item) for item in items])), 2, END)


def legal_after(rule: Legality, excluded: list[int], written: list[int]) -> np.ndarray:
    writers = rule.writers(1)
    writers.start(np.array([0]), Ragged.of([excluded]))
    for token in written:
        writers.write(np.array([0]), np.array([token]))
    return LegalMask(rule, "cpu").allowed(writers.legal(np.array([0])), VOCAB).numpy()[0]


def search(items: Items, seed: int, excluded: list[list[int]], width: int) -> tuple[list[list[int]], list[float]]:
    rule = legality(items)
    beams = Beams(rule, Ragged.of(excluded), width)
    while len(slots := beams.undecided()):
        choices = []
        for slot in slots.tolist():
            prompt = beams.prompt_of(slot)
            legal = legal_after(rule, excluded[prompt], beams.tokens(slot))
            assert legal.sum() > 1
            ranked = sorted(next_logprobs(seed, prompt, beams.tokens(slot), legal).items(), key=lambda c: -c[1])
            choices.append(dict(ranked[:width]))
        beams.extend(slots, choices)
    tokens, logprobs = beams.best()
    return tokens, [sum(row) for row in logprobs]


def score(items: Items, seed: int, prompt: int, excluded: list[int], tokens: list[int]) -> float:
    rule, total = legality(items), 0.0
    for place, token in enumerate(tokens):
        total += next_logprobs(seed, prompt, tokens[:place], legal_after(rule, excluded, tokens[:place]))[token]
    return total


def all_lists(items: Items, excluded: list[int]) -> list[list[int]]:
    free = [item for number, item in enumerate(items) if number not in excluded]
    return [[*a, *b] for a, b in itertools.permutations(free, 2)]


@settings(deadline=None, max_examples=30)
@given(CATALOGS, st.integers(0, 1000), st.sets(st.integers(0, 4), max_size=3))
def test_a_wide_beam_finds_the_likeliest_list(items: Items, seed: int, excluded: set[int]) -> None:
    rows = [sorted(excluded), []]
    tokens, scores = search(items, seed, rows, width=40)
    for prompt, row in enumerate(rows):
        every = {tuple(written): score(items, seed, prompt, row, written) for written in all_lists(items, row)}
        best = max(every, key=every.__getitem__)
        assert tuple(tokens[prompt]) == best
        np.testing.assert_allclose(scores[prompt], every[best], atol=1e-9)


@pytest.mark.parametrize("items", [coded(ITEMS, SEPARATOR), CODES], ids=["separators", "prefix-free"])
def test_a_beam_of_one_is_greedy(items: Items) -> None:
    tokens, _ = search(items, 3, [[]], width=1)
    rule, written = legality(items), []
    while not (legal := legal_after(rule, [], written))[END]:
        logprobs = next_logprobs(3, 0, written, legal)
        written.append(max(logprobs, key=logprobs.__getitem__))
    assert tokens == [written]


def test_a_list_that_rules_leave_no_item_gives_way_to_longer_ones() -> None:
    """At most one item of each group: after item 0 (both groups) nothing is left, after any other one something is."""
    groups = [["A", "B"], ["A"], ["A"], ["B"], ["B"], ["B"]]
    catalog = Catalog.build(list("012345"), list("abcdef"), groups, np.ones(6))
    trie = build_trie(Ragged.of([list(item) for item in coded(ITEMS, SEPARATOR)]))
    rules = make_rules(ListSettings(k=2, at_most={"*": 1}), catalog)
    assert rules is not None
    rule = Legality(trie, 2, END, rules.ranked(trie))

    def best(excluded: list[int]) -> list[int]:
        beams = Beams(rule, Ragged.of([excluded]), 3)
        while len(slots := beams.undecided()):
            likely = {0: -0.1, SEPARATOR: -0.1}  # of item 0; every other token is less so
            writers = [legal_after(rule, excluded, beams.tokens(slot)) for slot in slots.tolist()]
            beams.extend(slots, [{int(t): likely.get(int(t), -2.0) for t in np.flatnonzero(row)} for row in writers])
        return beams.best()[0][0]

    assert best([]).count(SEPARATOR) == 2
    assert best([1, 2, 3, 4, 5]) == [0, SEPARATOR, END]
