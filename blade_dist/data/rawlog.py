"""What every format is read into: a stream of interactions and a table of items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from blade_dist.errors import UserError

Row = TypeVar("Row")

LOG_SCHEMA = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", pa.int64()), ("rating", pa.float64())])
"""A normalised interaction; ``rating`` is null where the log has none."""


@dataclass(frozen=True)
class LogColumns:
    """Names of the columns in the raw log."""

    user: str
    item: str
    time: str
    rating: str | None

    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.user, self.item, self.time, self.rating) if name is not None]


@dataclass(frozen=True)
class RawLog:
    """A log as a format's reader hands it over."""

    rows: ray.data.Dataset
    """Interactions in the order of the files, as :data:`LOG_SCHEMA`; nothing is read before it is iterated."""
    items: pa.Table
    """``item`` (string), ``title`` (string), ``groups`` (list of strings), and ``embedding`` (list of floats) where
    there is one; an item may stand there twice, or have no title."""
    bad_row: Callable[[], str | None]
    """Reads the files once more, plainly, and says where the first unreadable row is and what is wrong with it."""


def normalise(table: pa.Table, columns: LogColumns) -> pa.Table:
    """Raw columns as :data:`LOG_SCHEMA`.

    Raises:
        ValueError: an empty id, a time that is no whole number, a rating that is no number. The message shows the
            first row's value: for a table of one row, the culprit.
    """
    rating = pa.nulls(len(table), pa.float64()) if columns.rating is None else _number(table, columns.rating)
    arrays = [_text(table, columns.user), _text(table, columns.item), whole_numbers(table, columns.time), rating]
    return pa.table(arrays, schema=LOG_SCHEMA)


def first_bad(rows: Iterable[tuple[str, Row]], check: Callable[[list[Row]], object]) -> str | None:
    """The first place whose row makes ``check`` raise a ValueError, with the reason; ``rows``: (place, row)."""
    left = iter(rows)
    while chunk := list(islice(left, 4096)):
        with suppress(ValueError):
            check([row for _, row in chunk])
            continue
        for place, row in chunk:
            try:
                check([row])
            except ValueError as error:
                return f"{place}: {error}"
    return None


def require_file(path: Path, setting: str) -> None:
    """Raises UserError where there is nothing at ``path``."""
    if not path.exists():
        raise UserError(f"{setting}: {path} does not exist")


def require_columns(path: Path, present: Iterable[str], wanted: dict[str, str]) -> None:
    """Raises UserError where a column is missing; ``wanted``: who needs it -> its name."""
    present = list(present)
    for setting, name in wanted.items():
        if name not in present:
            raise UserError(f"{path}: no column {name!r} ({setting}); it has {', '.join(present)}")


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Ray Data in the order of the files, without progress bars; errors come back as exceptions only.

    A dataset takes these settings along when it is made, so make it in here too.
    """
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.use_datasource_v2 = False  # its listing task takes seconds where V1 takes none (Ray 2.60, one local file)
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


def _text(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name).cast(pa.string())
    if column.null_count or pc.any(pc.equal(pc.utf8_length(column), 0)).as_py():
        raise ValueError(f"column {name!r} is empty")
    return column


def whole_numbers(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column as int64; ValueError where it can't be."""
    column = table.column(name)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    wrong = ValueError(f"column {name!r}: {_first(column)} is not a whole number (larger is later)")
    try:
        column = _trimmed(column)
        try:
            whole = column.cast(pa.int64())
        except pa.ArrowInvalid:  # whole numbers are also written 1.6e9 and 12.0
            whole = column.cast(pa.float64()).cast(pa.int64())
    except pa.ArrowInvalid:
        raise wrong from None
    if whole.null_count:
        raise wrong
    return whole


def _number(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    wrong = ValueError(f"column {name!r}: {_first(column)} is not a number")
    try:
        number = _trimmed(column).cast(pa.float64())
    except pa.ArrowInvalid:
        raise wrong from None
    if number.null_count or pc.any(pc.is_nan(number)).as_py():
        raise wrong
    return number


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return pc.utf8_trim_whitespace(column) if is_text else column


def _first(column: pa.ChunkedArray) -> str:
    return repr(column[0].as_py()) if len(column) else "nothing"
