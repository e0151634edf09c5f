"""Whether the raw log can be read at all: its files, its columns, its first rows, its items."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from blade_dist.data.formats import FORMATS
from blade_dist.data.usable import usable_items
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings


def first_look(settings: DataSettings) -> str:
    """What was found, in words; reads the first block of the log, and the items.

    Raises:
        UserError: a missing file or column, a row of the first block that can't be read.
    """
    if settings.source == "synthetic":
        return "a generated log"
    raw = FORMATS[settings.source](settings, 0, Path())
    try:
        rows = sum(len(block) for block in islice(raw.rows(), 1))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(raw.bad_row() or str(error)) from None
    items, _ = usable_items(raw.items, raw.remarks)
    return f"{settings.path}: the first {rows:,} rows can be read; {len(items):,} items with a title"
