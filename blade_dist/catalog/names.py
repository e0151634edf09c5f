"""Items and groups as settings name them: an item's id, or ``group:NAME`` for all items of a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError, nearest, quoted

GROUP = "group:"
"""What the name of a group stands behind, where an item's id could stand too."""


def named_items(names: Sequence[str], catalog: Catalog, setting: str) -> list[NDArray[np.int64]]:
    """Catalog indices of what each name stands for.

    Raises:
        UserError: no such item or group; says the nearest one.
    """
    ids = {name for name in names if not name.startswith(GROUP)}
    index = {name: number for number, name in enumerate(catalog.item_ids) if name in ids} if ids else {}
    owners = np.repeat(np.arange(len(catalog)), catalog.groups.lengths)
    indices = []
    for name in names:
        if name.startswith(GROUP):
            number = group_number(name.removeprefix(GROUP), catalog, setting)
            indices.append(owners[catalog.groups.flat == number])
            continue
        if name not in index:
            raise UserError(
                f"{setting}: there is no item {name!r}; did you mean {nearest(name, catalog.item_ids)!r}? "
                f"(a group is written {GROUP}NAME)"
            )
        indices.append(np.array([index[name]]))
    return indices


def group_number(name: str, catalog: Catalog, setting: str) -> int:
    """The group's number in the catalog.

    Raises:
        UserError: no such group; says the nearest one.
    """
    if not catalog.group_names:
        raise UserError(f"{setting}: there is no group {quoted(name)}; the catalog has no groups (data.columns.groups)")
    if name not in catalog.group_names:
        near = nearest(name, catalog.group_names)
        raise UserError(f"{setting}: there is no group {quoted(name)}; did you mean {near!r}?")
    return catalog.group_names.index(name)
