"""Soft business rules: by hand, against slow code, through the composite, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.soft import Excess, make_boost

GROUPS = [["a"], ["a"], ["b"], ["a", "b"], []]


def catalog(groups: list[list[str]] | None = None) -> Catalog:
    groups = GROUPS if groups is None else groups
    numbers = range(len(groups))
    return Catalog.build([f"i{n}" for n in numbers], [f"t{n}" for n in numbers], groups, np.ones(len(groups), np.int64))


def lists(rows: list[list[int]], items: Catalog) -> Lists:
    nothing = Ragged.of([[]] * len(rows))
    return Lists(np.array(rows, np.int32), nothing, nothing, items)


def test_boosts_by_hand() -> None:
    boost = make_boost("own", {"group:a": 0.5, "i3": 1.0, "group:b": -2.0}, catalog())
    np.testing.assert_allclose(boost.weight, [0.5, 0.5, -2.0, -0.5, 0.0, -2.0])  # a miss is the worst item
    batch = lists([[0, 3, 4], [2, MISS, 0], [4, 4, 4]], catalog())
    np.testing.assert_allclose(boost(batch, 2), [0.0, -2.0, 0.0])
    np.testing.assert_allclose(boost(batch, 3), [0.0, -3.5 / 3, 0.0])


def test_a_miss_is_never_worth_more_than_nothing() -> None:
    assert make_boost("own", dict.fromkeys(("i0", "i1", "i2", "i3", "i4"), 1.0), catalog()).weight[-1] == 0


def test_excess_by_hand() -> None:
    batch = lists([[0, 1, 2, 3], [3, 3, 2, 4], [4, 4, 4, 4], [0, MISS, 2, 1], [MISS] * 4], catalog())
    np.testing.assert_allclose(Excess(2)(batch, 4), [0.25, 0.25, 0, 0.25, 1])
    np.testing.assert_allclose(Excess(1)(batch, 4), [0.5, 0.5, 0, 0.5, 1])
    np.testing.assert_allclose(Excess(1)(batch, 2), [0.5, 0.5, 0, 0.5, 1])


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), unique=True, max_size=3), min_size=1, max_size=6),
    st.integers(1, 3),
    st.data(),
)
def test_excess_is_its_definition(groups: list[list[str]], most: int, data: st.DataObject) -> None:
    row = st.lists(st.integers(MISS, len(groups) - 1), min_size=5, max_size=5)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    result = Excess(most)(lists(rows, catalog(groups)), 5)
    for items, value in zip(rows, result, strict=True):
        over = 0
        for place, item in enumerate(items):
            before = [groups[other] for other in items[:place] if other != MISS]
            over += item == MISS or any(sum(name in names for names in before) >= most for name in groups[item])
        assert value == pytest.approx(over / 5)


def test_soft_rules_in_one_composite() -> None:
    weights = {"boost/own@2": 1.0, "excess/1@2": -0.5}
    composite = Composite(weights, catalog(), 2, boosts={"own": {"i0": 2.0}})
    composite.check()
    total, parts = composite.score(lists([[0, 1]], catalog()))
    assert (parts["boost/own@2"][0], parts["excess/1@2"][0], total[0]) == (1.0, 0.5, 0.75)


def test_the_fingerprint_knows_the_boosts_that_are_used() -> None:
    def print_of(weights: dict[str, float], weight: float) -> str:
        return Composite(weights, catalog(), 2, boosts={"own": {"i0": weight}}).depends_on()

    assert print_of({"boost/own@2": 1.0}, 1.0) != print_of({"boost/own@2": 1.0}, 2.0)
    plain = Composite({"hr@2": 1.0}, catalog(), 2).depends_on()
    assert print_of({"hr@2": 1.0}, 1.0) == print_of({"hr@2": 1.0}, 2.0) == plain


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("boost/owm@2", "reward.weights 'boost/owm@2': reward.boosts has no 'owm'; did you mean boost/own@N?"),
        ("boost@2", "reward.boosts has no ''; did you mean boost/own@N?"),
        ("boost/own@3", "write boost/own@N with N from 1 to lists.k = 2"),
        ("bost/own@2", "unknown metric; did you mean boost/own@2?"),
        ("exces/2@2", "unknown metric; did you mean excess/2@2?"),
        ("excess@2", "write excess/N@2, N the most items of a group: 1 or more"),
        ("excess/0@2", "write excess/N@2, N the most items of a group: 1 or more"),
        ("excess/1", "write excess/1@N with N from 1 to lists.k = 2"),
    ],
)
def test_bad_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        Composite({name: 1.0}, catalog(), 2, boosts={"own": {"i0": 1.0}})
    assert message in str(error.value)


def test_a_boost_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"reward\.boosts\.own: there is no item 'i9'; did you mean 'i"):
        Composite({"hr@2": 1.0}, catalog(), 2, boosts={"own": {"i9": 1.0}})
    with pytest.raises(UserError, match=r"reward\.boosts\.own: there is no group 'A'; did you mean 'a'\?"):
        make_boost("own", {"group:A": 1.0}, catalog([["a"]]))
