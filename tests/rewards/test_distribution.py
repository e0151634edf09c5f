"""Set target distributions: by hand, through the composite, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.distribution import make_distribution
from blade_dist.rewards.item_features import tail_items
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.named import check_groups


def catalog(groups: list[list[str]] | None = None) -> Catalog:
    groups = groups or [["a"], ["a"], ["b"], ["a", "b"], ["b", "c"]]
    names = sorted({name for row in groups for name in row})
    return Catalog(
        item_ids=[f"i{n}" for n in range(len(groups))],
        titles=[f"title {n}" for n in range(len(groups))],
        groups=Ragged.of([[names.index(name) for name in row] for row in groups]),
        group_names=names,
        popularity=np.array([80, 5, 5, 5, 5][: len(groups)]),
        embeddings=None,
    )


def lists(rows: list[list[int]], items: Catalog) -> Lists:
    nothing = Ragged.of([[]] * len(rows))
    return Lists(np.array(rows, np.int32), nothing, nothing, items)


def test_by_hand() -> None:
    items = catalog()
    wanted = make_distribution("both", {"a": 0.5, "b": 0.5}, items)
    batch = lists([[0, 1], [0, 2], [3, 3], [4, 4], [0, MISS]], items)
    # shares of (a, b): (1, 0), (.5, .5), (.5, .5), (0, 1) as c is not asked for, (.5, 0) and half a miss
    np.testing.assert_allclose(wanted.mgu(batch, 2), [0.5, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(wanted.dgu(batch, 2), [1, 0, 0, 1, 1])


def test_head_and_tail_are_groups_of_every_catalog() -> None:
    items = catalog()
    assert tail_items(items)[:-1].tolist() == [False, True, True, True, True]
    wanted = make_distribution("long tail", {"head": 0.4, "tail": 0.6}, items)
    np.testing.assert_allclose(wanted.mgu(lists([[0, 1], [1, 2]], items), 2), [0.1, 0.4])


def test_the_others_are_all_items_in_no_named_group() -> None:
    items = catalog([["a"], ["a", "b"], [], ["c"], ["b", "c"]])
    wanted = make_distribution("x", {"a": 0.5, "*": 0.25, "b": 0.25}, items)
    batch = lists([[0, 2], [1, 3], [2, 3], [4, 4], [0, MISS]], items)
    # shares of (a, *, b): (.5, .5, 0), (.25, .5, .25), (0, 1, 0), (0, 0, 1), (.5, 0, 0) and half a miss
    np.testing.assert_allclose(wanted.mgu(batch, 2) * 3, [0.5, 0.5, 1.5, 1.5, 1.0])
    np.testing.assert_allclose(wanted.dgu(batch, 2), [0.5, 0.5, 1.25, 1.25, 0.75])


def test_the_others_may_stand_beside_the_head_and_for_nothing() -> None:
    items = catalog()
    batch = lists([[0, 1], [1, 2]], items)
    both = [make_distribution("x", {"head": 0.4, other: 0.6}, items) for other in ("tail", "*")]
    np.testing.assert_array_equal(both[0].mgu(batch, 2), both[1].mgu(batch, 2))
    nothing = make_distribution("x", {"a": 0.5, "b": 0.3, "c": 0.2, "*": 0.0}, items)
    np.testing.assert_array_equal(nothing.mass[:, 3], 0)


@given(st.lists(st.lists(st.integers(-1, 4), min_size=3, max_size=3), min_size=1, max_size=5))
def test_bounds(rows: list[list[int]]) -> None:
    items = catalog()
    batch = lists(rows, items)
    for shares in ({"a": 0.2, "b": 0.3, "c": 0.5}, {"c": 0.7, "*": 0.3}):
        wanted = make_distribution("x", shares, items)
        assert ((wanted.mgu(batch, 3) >= 0) & (wanted.mgu(batch, 3) <= 1)).all()
        assert (wanted.dgu(batch, 3) >= wanted.mgu(batch, 3) - 1e-12).all()


def test_several_stakeholders_in_one_composite() -> None:
    items = catalog()
    distributions = {"kinds": {"a": 0.5, "b": 0.5}, "tail": {"head": 0.4, "tail": 0.6}}
    weights = {"mgu/kinds@2": -1.0, "dgu/tail@2": -0.5, "mgu@2": -0.1}
    total, parts = Composite(weights, items, 2, distributions=distributions).score(lists([[0, 1]], items))
    assert parts["mgu/kinds@2"][0] == 0.5
    assert parts["dgu/tail@2"][0] == pytest.approx(0.2)
    assert total[0] == pytest.approx(-0.5 - 0.1 - 0.1 * parts["mgu@2"][0])


def test_the_fingerprint_knows_the_distributions_that_are_used() -> None:
    items = catalog()

    def print_of(weights: dict[str, float], share: float) -> str:
        wanted = {"tail": {"head": share, "tail": 1 - share}}
        return Composite(weights, items, 2, distributions=wanted).depends_on()

    assert print_of({"mgu/tail@2": -1.0}, 0.4) != print_of({"mgu/tail@2": -1.0}, 0.5)
    assert (
        print_of({"hr@2": 1.0}, 0.4) == print_of({"hr@2": 1.0}, 0.5) == Composite({"hr@2": 1.0}, items, 2).depends_on()
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"a": 0.5, "b": 0.4}, r"reward\.distributions\.x: the shares sum to 0\.9; they must sum to 1"),
        ({"a": 0.5, "B": 0.5}, r"there is no group 'B'; did you mean"),
        ({"a": 0.5, "tail": 0.5}, r"there is no group 'tail'; .* stand alone"),
        (
            {"a": 0.5, "c": 0.5},
            r"1 of 5 items are in none of its groups, the first is 'i2' \('title 2'\); name a group .*, or add '\*'",
        ),
        ({"a": 0.5, "b": 0.3, "*": 0.2}, r"reward\.distributions\.x: a share of 0\.2 for '\*', and every item is in"),
        ({"*": 1.0}, r"reward\.distributions\.x: '\*' stands .* name a group beside it"),
    ],
)
def test_bad_distributions_are_refused(wanted: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_distribution("x", wanted, catalog())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mgu/providers@2", "reward.weights 'mgu/providers@2': reward.distributions has no 'providers'; it has tail"),
        ("ild/tail@2", "only mgu and dgu"),
        ("mgu/tail@7", "reward.weights 'mgu/tail@7': write mgu/tail@N with N from 1 to lists.k = 2"),
    ],
)
def test_bad_names_are_refused(name: str, message: str) -> None:
    wanted = {"tail": {"head": 0.4, "tail": 0.6}}
    with pytest.raises(UserError) as error:
        Composite({name: 1.0}, catalog(), 2, distributions=wanted)
    assert message in str(error.value)


def test_a_share_for_a_tail_without_items_is_refused() -> None:
    even = Catalog.build(list("abc"), list("abc"), [["A"]] * 3, np.ones(3))
    with pytest.raises(UserError, match=r"reward\.distributions\.x: a share of 0\.6 for 'tail', and no item"):
        make_distribution("x", {"head": 0.4, "tail": 0.6}, even)


@pytest.mark.parametrize("name", ["mgu@2", "ild@2", "excess/1@2"])
def test_metrics_of_groups_where_there_are_none_are_refused(name: str) -> None:
    bare = Catalog.build(list("abc"), list("abc"), [[]] * 3, np.ones(3))
    with pytest.raises(UserError, match=rf"reward\.weights '{name}': the catalog has no groups"):
        check_groups(["ndcg@2", "mgu/tail@2", name], bare, "reward.weights")
    check_groups(["ndcg@2", "mgu/tail@2"], bare, "reward.weights")
    check_groups([name], catalog(), "reward.weights")
