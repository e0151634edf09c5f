"""From the items table to the catalog: which rows count, embeddings, and what no group holds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from blade_dist.catalog.catalog import Catalog
from blade_dist.data.card import WITHOUT_GROUP, describe_catalog, write_items_without_group
from blade_dist.data.remarks import Remarks
from blade_dist.data.usable import build_catalog, usable_items
from blade_dist.errors import UserError


def test_items_are_used_once_and_with_a_title() -> None:
    groups = pa.array([["g"], None, [], ["g"]], pa.list_(pa.string()))
    table = pa.table({"item": ["a", "b", "a", "c"], "title": ["A", " ", "A2", None], "groups": groups})
    items, repeated = usable_items(table, Remarks())
    assert (items.column("title").to_pylist(), repeated) == (["A"], 1)
    with pytest.raises(UserError, match=r"data.items: none of the 1 items has a title"):
        usable_items(table.slice(3), Remarks())


def _embedded(vectors: list[list[float] | None]) -> Catalog:
    names = [f"i{number}" for number in range(len(vectors))]
    columns = {"item": names, "title": names, "groups": pa.array([[]] * len(names), pa.list_(pa.string()))}
    table = pa.table(columns | {"embedding": pa.array(vectors, pa.list_(pa.float32()))})
    return build_catalog(table, np.zeros(len(names), np.int64))


def test_embeddings_are_a_row_each() -> None:
    np.testing.assert_array_equal(_embedded([[1.0, 2.0], [3.0, 4.0]]).embeddings, [[1, 2], [3, 4]])


@pytest.mark.parametrize("odd", [[1.0], [], None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_the_first_item_with_another_embedding_is_named(place: int, odd: list[float] | None) -> None:
    vectors: list[list[float] | None] = [[1.0, 2.0]] * 5
    vectors[place] = vectors[3] = odd
    message = rf"item 'i{place}' has an embedding of {len(odd or [])} numbers, and item 'i0' one of 2; every item"
    with pytest.raises(UserError, match=message):
        _embedded(vectors)


def test_a_first_item_without_an_embedding_is_named() -> None:
    with pytest.raises(UserError, match=r"item 'i0' has an embedding of 0 numbers, and item 'i1' one of 2"):
        _embedded([None, [1.0, 2.0], [1.0, 2.0]])


def test_no_embedding_at_all_says_so() -> None:
    with pytest.raises(UserError, match=r"data.columns.embedding: none of the 2 items has an embedding"):
        _embedded([None, []])


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), None])
def test_an_embedding_that_is_no_number_is_named(odd: float | None) -> None:
    with pytest.raises(UserError, match=r"2 of 4 items have an embedding with what is no finite .*, the first is 'i1'"):
        _embedded([[1.0, 2.0], [1.0, odd], [1.0, 2.0], [odd, 1.0]])  # type: ignore[list-item]


def test_white_space_makes_no_group() -> None:
    rows = [["Crime", " Drama"], ["  Crime "], [" ", None]]
    table = pa.table({"item": list("abc"), "title": list("abc"), "groups": pa.array(rows, pa.list_(pa.string()))})
    catalog = build_catalog(table, np.zeros(3, np.int64))
    assert catalog.group_names == ["Crime", "Drama"]
    assert [row.tolist() for row in catalog.groups] == [[0, 1], [0], []]


def _grouped(groups: list[list[str]]) -> Catalog:
    names = [f"i{number}" for number in range(len(groups))]
    return Catalog.build(names, names, groups, np.zeros(len(groups), np.int64))


def test_all_items_without_a_group_are_listed(tmp_path: Path) -> None:
    catalog = _grouped([[], ["a"], [], [], ["b"], [], []])
    write_items_without_group(catalog, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [WITHOUT_GROUP]
    assert (tmp_path / WITHOUT_GROUP).read_text().splitlines() == ["i0", "i2", "i3", "i5", "i6"]
    assert describe_catalog(catalog)["items_without_group"] == 5


@pytest.mark.parametrize("groups", [[["a"], ["b"]], [[], []]])
def test_there_is_no_list_where_all_or_none_have_a_group(tmp_path: Path, groups: list[list[str]]) -> None:
    write_items_without_group(_grouped(groups), tmp_path)
    assert not list(tmp_path.iterdir())
