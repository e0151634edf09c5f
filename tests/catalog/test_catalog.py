"""The catalog: names to numbers, unique titles, the file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.catalog.catalog import Catalog, unique_titles
from blade_dist.errors import UserError


def _catalog(**changes: object) -> Catalog:
    parts = {
        "item_ids": ["x", "y", "z"],
        "titles": ["Heat", "Heat", "Jaws"],
        "groups": [["Crime", "Action"], [], ["Horror"]],
        "popularity": np.array([3, 0, 7]),
        "embeddings": np.arange(6, dtype=np.float32).reshape(3, 2),
    }
    return Catalog.build(**{**parts, **changes})  # type: ignore[arg-type]


def test_build_numbers_groups_and_tells_equal_titles_apart() -> None:
    catalog = _catalog()
    assert catalog.titles.tolist() == ["Heat", "Heat (2)", "Jaws"]
    assert catalog.group_names == ["Action", "Crime", "Horror"]
    assert [catalog.groups[item].tolist() for item in range(3)] == [[0, 1], [], [2]]
    np.testing.assert_array_equal(catalog.group_matrix(), [[0.5, 0.5, 0], [0, 0, 0], [0, 0, 1]])


def test_an_empty_title_names_the_item() -> None:
    with pytest.raises(UserError, match=r"item 'y'.*title is empty"):
        _catalog(titles=["Heat", "  ", "Jaws"])


@pytest.mark.parametrize("embeddings", [None, np.eye(3, dtype=np.float32)])
def test_what_is_saved_is_loaded(tmp_path, embeddings) -> None:
    catalog = _catalog(embeddings=embeddings)
    catalog.save(tmp_path)
    loaded = Catalog.load(tmp_path)
    assert loaded.fingerprint() == catalog.fingerprint()
    assert loaded.titles.tolist() == catalog.titles.tolist()
    assert loaded.group_names == catalog.group_names
    assert [path.name for path in tmp_path.iterdir()] == ["items.arrow"]


def test_the_fingerprint_sees_every_field() -> None:
    changed = [
        {"item_ids": ["x", "y", "w"]},
        {"titles": ["Heat", "Heat", "Jaw"]},
        {"groups": [["Crime"], [], ["Horror"]]},
        {"popularity": np.array([3, 1, 7])},
        {"embeddings": None},
    ]
    prints = {_catalog().fingerprint(), *(_catalog(**change).fingerprint() for change in changed)}
    assert len(prints) == len(changed) + 1


@given(st.lists(st.sampled_from(["a", "a (2)", "a (3)", "a (2) (2)", " a  (2)", "b"]), min_size=1, max_size=12))
def test_titles_end_up_unique_and_first_ones_keep_theirs(titles: list[str]) -> None:
    made = unique_titles(titles, [str(index) for index in range(len(titles))])
    assert len(set(made)) == len(titles)
    clean = [" ".join(title.split()) for title in titles]
    assert all(made[clean.index(title)] == title for title in clean)
