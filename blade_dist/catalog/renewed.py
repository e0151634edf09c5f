"""A catalog as it is today: items that have come, that changed, and that are gone. Pure numpy.

Items keep their rows, so that what was trained and what histories hold stays what it was. Those that are gone are
*withdrawn*: their row stays, and no list may hold them. New ones follow, in the order that they are given in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog, unique_titles


@dataclass(frozen=True, eq=False)
class Renewed:
    """The catalog of the day, with its titles as they were given."""

    catalog: Catalog
    """``I + n`` items: those that there were, then the new ones. Titles are unique."""
    known: int
    """I: items that there were."""
    renamed: NDArray[np.int64]
    """Rows, ascending, of items that there were and have another title now."""
    regrouped: NDArray[np.int64]
    """Rows, ascending, of items that there were and have other groups now."""

    @property
    def new(self) -> int:
        """n."""
        return len(self.catalog) - self.known

    @property
    def gone(self) -> NDArray[np.bool_]:
        """``[I + n]`` whether the item is withdrawn."""
        withdrawn = self.catalog.withdrawn
        return np.zeros(len(self.catalog), dtype=bool) if withdrawn is None else withdrawn


def renewed(
    catalog: Catalog, item_ids: Sequence[str], titles: Sequence[str], groups: Sequence[Sequence[str]] | None
) -> Renewed:
    """A catalog with the items of the day.

    Args:
        catalog: the items that there were.
        item_ids: of all items on sale today, none twice.
        titles: of each, none empty.
        groups: names of each one's groups; None: items keep theirs, and new ones have none.
    """
    index = {item: row for row, item in enumerate(catalog.item_ids.tolist())}
    known = len(catalog)
    place = np.array([index.get(item, -1) for item in item_ids], dtype=np.int64)
    new = np.flatnonzero(place < 0)
    row_of = place.copy()
    row_of[new] = known + np.arange(len(new))
    withdrawn = np.ones(known + len(new), dtype=bool)
    withdrawn[row_of] = False
    given: list[str | None] = [None] * len(withdrawn)
    for row, title in zip(row_of.tolist(), titles, strict=True):
        given[row] = title
    all_ids = [*catalog.item_ids, *(item_ids[one] for one in new)]
    renamed = [row for row in range(known) if (now := given[row]) and not is_title(now, catalog.titles[row])]
    made = replace(
        catalog,
        item_ids=np.array(all_ids, dtype=object),
        titles=_titles(catalog, given, renamed, all_ids),
        popularity=np.concatenate([catalog.popularity, np.zeros(len(new), np.int64)]),
        embeddings=None,
        withdrawn=withdrawn if withdrawn.any() else None,
    )
    made, names = _with_groups(made, catalog, row_of, groups)
    before = names_of(catalog)
    regrouped = [row for row in place[place >= 0].tolist() if names[row] != before[row]]
    return Renewed(made, known, np.array(renamed, dtype=np.int64), np.sort(np.array(regrouped, dtype=np.int64)))


def is_title(given: str, written: str) -> bool:
    """Whether an item's title is the one given, perhaps with a number that tells it from another one's.

    >>> is_title("Heat", "Heat (2)"), is_title("Heat", "Heat"), is_title("Heat", "Heat 2")
    (True, True, False)
    """
    plain = " ".join(given.split())
    return written == plain or re.fullmatch(re.escape(plain) + r" \(\d+\)", written) is not None


def _titles(catalog: Catalog, given: list[str | None], renamed: list[int], item_ids: list[str]) -> NDArray[np.object_]:
    """Unique ones: who keeps a title comes before who takes it, and what there was before what is new."""
    titles = [*catalog.titles, *(given[row] for row in range(len(catalog), len(given)))]
    for row in renamed:
        titles[row] = given[row]
    order = by_age(len(catalog), renamed, len(titles))
    unique = unique_titles([str(titles[row]) for row in order], [item_ids[row] for row in order])
    made = np.empty(len(titles), dtype=object)
    made[order] = unique
    return made


def by_age(known: int, renamed: Sequence[int] | NDArray, items: int) -> NDArray[np.int64]:
    """Rows: those that keep their title, those that change it, the new ones."""
    changed = np.isin(np.arange(known), renamed)
    return np.concatenate([np.flatnonzero(~changed), np.flatnonzero(changed), np.arange(known, items)])


def names_of(catalog: Catalog) -> list[tuple[str, ...]]:
    """Names of each item's groups."""
    return [tuple(catalog.group_names[group] for group in catalog.groups[item]) for item in range(len(catalog))]


def _with_groups(
    made: Catalog, catalog: Catalog, row_of: NDArray[np.int64], groups: Sequence[Sequence[str]] | None
) -> tuple[Catalog, list[tuple[str, ...]]]:
    """With the groups of the day, and those of withdrawn items as they were; each item's names."""
    names = names_of(catalog) + [()] * (len(made) - len(catalog))
    for row, given in zip(row_of.tolist(), groups or (), strict=groups is not None):
        names[row] = tuple(sorted({*given}))
    group_names = sorted({name for row in names for name in row})
    number = {name: index for index, name in enumerate(group_names)}
    rows = [[number[name] for name in row] for row in names]
    return replace(made, groups=Ragged.of(rows), group_names=group_names), names
