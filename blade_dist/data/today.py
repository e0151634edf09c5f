"""The items of the day: the whole catalog as it is now, from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.remarks import Remarks
from blade_dist.data.table import read_items
from blade_dist.data.titles import clean_titles
from blade_dist.data.usable import group_names
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings


@dataclass(frozen=True)
class Today:
    """Items that are on sale, in the file's order."""

    item_ids: list[str]
    """None twice."""
    titles: list[str]
    """None empty, without HTML and invisible characters."""
    groups: list[list[str]] | None
    """Names of each item's groups, each once, ascending; None where no column of them is read."""
    remarks: Remarks
    """What was repaired, and which columns were taken."""


def read_today(path: Path, settings: DataSettings) -> Today:
    """Reads a file of items as the data stage reads ``data.items``, but leaves none out.

    Args:
        path: table of items.
        settings: names of the columns, and how text is written.

    Raises:
        UserError: no such file, one that can't be read, a missing column, an item without an id or a title, an id that
            stands there twice.
    """
    if not path.exists():
        raise UserError(f"--items {path}: no such file; give a table of all items of the day: item, title, groups")
    remarks = Remarks()
    table = read_items(settings.model_copy(update={"items": path}), remarks, "--items")
    if not len(table):
        raise UserError(f"--items {path}: it has no items")
    ids, titles = table.column("item").combine_chunks(), clean_titles(table.column("title"), remarks)
    if (place := pc.index(ids.is_null(), True).as_py()) >= 0:
        raise UserError(f"--items {path}: item {place + 1} of {len(ids)} has no id; give it one, or leave it out")
    _check_once(ids, path)
    if missing := titles.null_count:
        example = ids[pc.index(titles.is_null(), True).as_py()].as_py()
        raise UserError(
            f"--items {path}: {missing} of {len(ids)} items have no title, as {example!r}; give them one, or leave "
            "them out"
        )
    groups = None
    if settings.columns.groups is None:
        remarks.hint(
            "no groups are read: items keep theirs, and new ones have none; data.columns.groups names the column"
        )
    else:
        groups = [sorted({*group_names(row)}) for row in table.column("groups").to_pylist()]
    return Today(ids.to_pylist(), titles.to_pylist(), groups, remarks)


def _check_once(ids: pa.Array, path: Path) -> None:
    codes = ids.dictionary_encode().indices.to_numpy()
    counts = np.bincount(codes)
    if (twice := np.flatnonzero(counts > 1)).size:
        example = ids[int(np.flatnonzero(codes == twice[0])[0])].as_py()
        raise UserError(
            f"--items {path}: {len(twice)} ids stand there more than once, as {example!r}; write one row per item"
        )
