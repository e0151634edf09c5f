"""The catalog of a day: rows stay, titles are unique, groups are those of the day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.renewed import renewed
from blade_dist.catalog.rules import make_rules
from blade_dist.settings import ListSettings

BEFORE = Catalog.build(
    ["a", "b", "c", "d"], ["Heat", "Heat", "Ran", "Alien"], [["x"], ["y", "x"], [], ["z"]], np.array([4, 3, 2, 1])
)


def test_a_day_by_hand() -> None:
    day = renewed(
        BEFORE, ["d", "n", "b", "c", "m"], ["Heat", "Ran", "Heat", "Ran", "Alien"], [["z"], [], ["x"], [], ["w", "x"]]
    )
    assert day.catalog.item_ids.tolist() == ["a", "b", "c", "d", "n", "m"]
    # a keeps its title though it is withdrawn; d takes one that is taken, and leaves its own to m
    assert day.catalog.titles.tolist() == ["Heat", "Heat (2)", "Ran", "Heat (3)", "Ran (2)", "Alien"]
    names = [[day.catalog.group_names[group] for group in day.catalog.groups[item]] for item in range(6)]
    assert names == [["x"], ["x"], [], ["z"], [], ["w", "x"]]
    assert (day.renamed.tolist(), day.regrouped.tolist(), day.new) == ([3], [1], 2)
    assert day.gone.tolist() == [True, False, False, False, False, False]
    assert day.catalog.popularity.tolist() == [4, 3, 2, 1, 0, 0]


def random_day(rng: np.random.Generator) -> list[tuple[str, str, list[str]]]:
    ids = rng.permutation(list("abcdefgh"))[: rng.integers(1, 9)].tolist()
    titles = rng.choice(["Heat", "Ran", "Up", "Heat (2)"], len(ids)).tolist()
    return [(item, title, [*"xyzw"[: rng.integers(0, 5)]]) for item, title in zip(ids, titles, strict=True)]


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_days_in_a_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = random_day(rng), random_day(rng)
    catalog = BEFORE
    for rows in (first, second):
        ids, titles, groups = (list(column) for column in zip(*rows, strict=True))
        day = renewed(catalog, ids, titles, groups)
        made = day.catalog
        assert made.item_ids[: len(catalog)].tolist() == catalog.item_ids.tolist()
        assert len(set(made.titles)) == len(made)
        assert {*made.item_ids[~day.gone]} == {*ids}
        kept = np.setdiff1d(np.arange(len(catalog)), day.renamed)
        assert made.titles[kept].tolist() == catalog.titles[kept].tolist()
        index = {item: row for row, item in enumerate(made.item_ids)}
        for item, title, group in rows:
            assert made.titles[index[item]].startswith(title)
            assert {made.group_names[one] for one in made.groups[index[item]]} == {*group}
        catalog = made


def test_what_is_withdrawn_is_a_rule_and_is_saved(tmp_path: Path) -> None:
    day = renewed(BEFORE, ["b", "c", "d"], ["Heat", "Ran", "Alien"], [["x", "y"], [], ["z"]])
    assert not len(day.renamed)
    assert not len(day.regrouped)
    rules = make_rules(ListSettings(k=2), day.catalog)
    assert rules is not None
    assert rules.excluded.tolist() == [True, False, False, False]
    both = make_rules(ListSettings(k=2, exclude=["group:z"]), day.catalog)
    assert both is not None
    assert both.excluded.tolist() == [True, False, False, True]
    assert day.catalog.withdrawn is not None
    assert day.catalog.withdrawn.tolist() == [True, False, False, False]  # the rules wrote into a copy
    assert make_rules(ListSettings(k=2), BEFORE) is None
    day.catalog.save(tmp_path)
    loaded = Catalog.load(tmp_path)
    assert loaded.fingerprint() == day.catalog.fingerprint() != BEFORE.fingerprint()
    assert (loaded.on_sale, BEFORE.on_sale) == (3, 4)
    all_again = renewed(loaded, list("abcd"), ["Heat", "Heat", "Ran", "Alien"], [["x"], ["x", "y"], [], ["z"]])
    assert all_again.catalog.withdrawn is None
    assert all_again.catalog.fingerprint() == BEFORE.fingerprint()
