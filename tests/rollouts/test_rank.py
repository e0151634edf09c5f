"""Rank decoding: the best items by search and rules, against a sort of all items."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.rules import Rules, make_rules
from blade_dist.catalog.trie import build_trie
from blade_dist.rollouts.beam import Beams
from blade_dist.rollouts.constrain import LegalMask
from blade_dist.rollouts.rank import Search, best_items, first_fitting
from blade_dist.settings import ListSettings
from tests.helpers.catalogs import coded

SEPARATOR, END, VOCAB = 20, 21, 22
Items = list[tuple[int, ...]]
TITLES: Items = coded([(0,), (0, 1), (0, 2), (3,), (4, 5), (4, 6), (7, 1, 1), (7, 1, 2)], SEPARATOR)
CODES: Items = [(0, 7), (0, 1), (0, 2), (3,), (4, 5), (4, 6), (7, 1, 1), (7, 1, 2)]
TOKENS: Items = [(number,) for number in (5, 3, 8, 0, 1, 2, 9, 4)]
GROUPS = [["A"], ["A"], ["A", "B"], ["B"], [], ["A"], ["B"], ["A"]]


def rules_of(at_most: dict[str, int], exclude: list[str], k: int) -> Rules | None:
    names = [f"i{number}" for number in range(len(GROUPS))]
    catalog = Catalog.build(names, names, GROUPS, np.ones(len(GROUPS)))
    return make_rules(ListSettings(k=k, at_most=at_most, exclude=exclude), catalog)


def logprobs(seed: int, written: list[int], legal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """An invented model; the first token has few different values, so that items of one token tie."""
    rng = np.random.default_rng([seed, len(written), *written])
    logits = rng.normal(size=VOCAB) if written or seed % 2 else rng.integers(0, 3, VOCAB).astype(float)
    logits[~legal] = -np.inf
    return logits - np.log(np.exp(logits).sum())


def searched(
    items: Items, seed: int, excluded: list[int], rules: Rules | None, passes: list[int], widest: int = 0
) -> list[int]:
    trie = build_trie(Ragged.of([list(item) for item in items]))
    rule = Legality(trie, 1, END, None if rules is None else rules.ranked(trie))
    mask = LegalMask(rule, "cpu")

    def search(rows: NDArray[np.int64], width: int) -> Ranked:
        beams = Beams(rule, Ragged.of([excluded] * len(rows)), max(width, widest))
        while len(slots := beams.undecided()):
            choices = []
            for slot in slots.tolist():
                writers = rule.writers(1)
                writers.start(np.array([0]), Ragged.of([excluded]))
                for token in beams.tokens(slot):
                    writers.write(np.array([0]), np.array([token]))
                values = logprobs(
                    seed, beams.tokens(slot), mask.allowed(writers.legal(np.array([0])), VOCAB)[0].numpy()
                )
                likeliest = np.argsort(-values, kind="stable")[: 2 * width]
                choices.append({int(token): float(values[token]) for token in likeliest})
            passes.append(len(slots))
            beams.extend(slots, choices)
        return beams.ranked_items()

    return first_fitting(best_items(search, 1, 4, 4, rules), 4, rules).items[0].tolist()


def sorted_by_hand(items: Items, seed: int, excluded: list[int], rules: Rules | None) -> list[int]:
    free = [n for n in range(len(items)) if n not in excluded and (rules is None or not rules.excluded[n])]
    scores = dict.fromkeys(free, 0.0)
    for number in free:
        for place, token in enumerate(items[number]):
            going_on = [items[n] for n in free if items[n][:place] == items[number][:place]]
            legal = np.isin(np.arange(VOCAB), [item[place] for item in going_on])
            scores[number] += 0.0 if legal.sum() == 1 else logprobs(seed, list(items[number][:place]), legal)[token]
    ordered = np.array([sorted(free, key=lambda n: (-round(scores[n], 9), items[n]))], np.int32)
    kept = ordered if rules is None else rules.keep(ordered)
    best = [number for number in kept[0].tolist() if number != MISS][:4]
    return best + [MISS] * (4 - len(best))


@given(
    st.integers(0, 10_000),
    st.sets(st.integers(0, 7), max_size=7),
    st.dictionaries(st.sampled_from(["A", "B", "*"]), st.integers(0, 2), max_size=2),
    st.lists(st.sampled_from(["i3", "i4", "group:B"]), max_size=1),
)
def test_single_tokens_are_ranked_as_a_sort_of_all_would(
    seed: int, excluded: set[int], at_most: dict[str, int], exclude: list[str]
) -> None:
    rules, passes = rules_of(at_most, exclude, 4), []
    found = searched(TOKENS, seed, sorted(excluded), rules, passes)
    assert found == sorted_by_hand(TOKENS, seed, sorted(excluded), rules)
    if rules is None:
        assert sum(passes) <= 1


@given(st.sampled_from([TITLES, CODES]), st.integers(0, 10_000), st.sets(st.integers(0, 7), max_size=7), st.booleans())
def test_a_search_as_wide_as_the_catalog_ranks_items_of_several_tokens(
    items: Items, seed: int, excluded: set[int], ruled: bool
) -> None:
    rules, seed = rules_of({"*": 1}, [], 4) if ruled else None, 2 * seed + 1
    found = searched(items, seed, sorted(excluded), rules, [], widest=len(items))
    assert found == sorted_by_hand(items, seed, sorted(excluded), rules)


def test_a_narrow_search_goes_on_until_rules_are_content_or_nothing_is_left() -> None:
    widths: list[int] = []
    assert best(2, 2, 2, {"A": 1}, widths).tolist() == [[0, 3]] * 2
    assert widths == [2, 8]
    assert best(1, 4, 4, {"*": 1}, widths).tolist() == [[0, 3, 4, MISS]]
    assert widths == [2, 8, 4, 16]


def best(prompts: int, k: int, size: int, at_most: dict[str, int], widths: list[int]) -> NDArray[np.int32]:
    rules = rules_of(at_most, [], k)
    return first_fitting(best_items(eight(widths), prompts, k, size, rules), k, rules).items


def eight(widths: list[int]) -> Search:
    """The items from 0 to 7, whose log-probs are 0, -1, -2, ...; those of group A come first."""

    def search(rows: NDArray[np.int64], width: int) -> Ranked:
        widths.append(width)
        ranked = np.tile([0, 1, 5, 7, 2, 3, 6, 4], (len(rows), 1)).astype(np.int32)
        items = np.pad(ranked, [(0, 0), (0, max(0, width - 8))], constant_values=MISS)[:, :width]
        return Ranked(items, np.where(items == MISS, -np.inf, -np.arange(width, dtype=float)))

    return search


def test_candidates_are_the_best_items_with_those_that_fit_together_among_them() -> None:
    free = best_items(eight([]), 2, 2, 5, None)
    assert free.items.tolist() == [[0, 1, 5, 7, 2]] * 2
    assert free.scores.tolist() == [[0, -1, -2, -3, -4]] * 2
    ruled = best_items(eight([]), 2, 2, 5, rules_of({"A": 1}, [], 2))
    assert ruled.items.tolist() == [[0, 1, 5, 7, 3]] * 2  # 3 is the first that is not in A
    assert ruled.scores.tolist() == [[0, -1, -2, -3, -5]] * 2
    everything = best_items(eight([]), 1, 2, 10, None)
    assert everything.items.tolist() == [[0, 1, 5, 7, 2, 3, 6, 4, MISS, MISS]]
