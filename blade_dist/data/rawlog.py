"""What every format is read into: a stream of interactions and a table of items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.ids import id_text, is_null_word
from blade_dist.data.remarks import Remarks, shown
from blade_dist.data.spelt import is_text, plain_numbers, slashed
from blade_dist.data.times import UNITS, microseconds
from blade_dist.errors import UserError

Row = TypeVar("Row")

LOG_SCHEMA = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", pa.int64()), ("rating", pa.float64())])
"""A normalised interaction; ``time`` in microseconds, ``rating`` is null where the log has none."""


DROPPABLE = "; data.bad_rows=drop leaves such rows out"
"""Ends the message about a row that may be left out."""


@dataclass(frozen=True)
class LogColumns:
    """Names of the columns in the raw log."""

    user: str
    item: str
    time: str | None
    """None: the rows stand in order."""
    rating: str | None

    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.user, self.item, self.time, self.rating) if name is not None]


@dataclass(frozen=True)
class RawLog:
    """A log as a format's reader hands it over."""

    rows: Callable[[], Iterator[pa.Table]]
    """Reads the interactions in the order of the files, as :data:`LOG_SCHEMA`, block by block."""
    items: pa.Table
    """``item`` (string), ``title`` (string), ``groups`` (list of strings), and ``embedding`` (list of floats) where
    there is one; an item may stand there twice, or have no title."""
    bad_row: Callable[[], str | None]
    """Reads the files once more, plainly, and says where the first unreadable row is and what is wrong with it."""
    remarks: Remarks
    """What :attr:`rows` left out or repaired, once it has been read."""


@dataclass(frozen=True)
class Rules:
    """What becomes of rows that are no interactions."""

    drop: bool = False
    """``data.bad_rows: drop``: they are left out and counted, else they are errors."""
    null_words: tuple[str, ...] = ()
    """``data.null_words``: users and items of these names are left out and counted."""
    day_first: Callable[[], bool | None] = lambda: None
    """Whether 01/02/2024 is a day of February; None: nothing tells. Asked only where there are such dates."""


def normalise(table: pa.Table, columns: LogColumns, rules: Rules, remarks: Remarks) -> pa.Table:
    """Raw columns as :data:`LOG_SCHEMA`.

    Raises:
        ValueError: an empty id, a time or a rating that is none, where such rows are not left out. The message shows
            the first of them: for a table of one row, the culprit.
    """
    user, item = (_ids(table, name, role, remarks) for role, name in (("user", columns.user), ("item", columns.item)))
    time = _times(table, columns.time, rules, remarks)
    rating, wrong = _ratings(table, columns.rating, rules, remarks)
    left = pa.array(np.ones(len(table), bool))
    if (first_line := _names_again(table, columns)) is not None:
        left = _without(left, first_line, "the first line again", f"{columns.user}, {columns.item}", remarks)
    for role, name, mask, problem in (
        ("user", columns.user, user.is_null(), "is empty"),
        ("item", columns.item, item.is_null(), "is empty"),
        ("time", columns.time, time.is_null(), "is no time: a number (larger is later) or 2024-01-31T10:00:00Z"),
        ("rating", columns.rating, wrong, "is not a number"),
    ):
        if (place := pc.index(pc.and_(mask, left), True).as_py()) < 0:
            continue
        value = _plain(table.column(name)[place])
        what = (
            f"column {name!r} {problem}" if role in ("user", "item") else f"column {name!r}: {shown(value)} {problem}"
        )
        if not rules.drop:
            raise ValueError(f"{what}{DROPPABLE}")
        left = _without(left, mask, f"no {role}", what, remarks)
    for role, ids in (("user", user), ("item", item)):
        left = _without_null_words(left, ids, role, rules, remarks)
    whole = pa.table([user, item, time, rating], schema=LOG_SCHEMA)
    return whole if pc.all(left).as_py() is not False else whole.filter(left)


def _plain(value: pa.Scalar) -> object:
    """As Python has it; of a date that it can't have, the number that stands for it."""
    try:
        return value.as_py()
    except OverflowError:
        return int(value.value)


def _names_again(table: pa.Table, columns: LogColumns) -> pa.Array | None:
    """Rows that name the columns once more, as in files that were put behind each other; None: there are none."""
    given = [(table.column(name).combine_chunks(), name) for name in columns.names()]
    if not all(is_text(column.type) for column, _ in given):
        return None
    again = pc.fill_null(pc.equal(*given[0]), False)
    if not pc.any(again).as_py():
        return None
    for column, name in given[1:]:
        again = pc.and_(again, pc.fill_null(pc.equal(column, name), False))
    return again


def _times(table: pa.Table, name: str | None, rules: Rules, remarks: Remarks) -> pa.Array:
    """Microseconds, null where one can't be read; without a column, rows are one apart in the order of the files.

    Raises:
        ValueError: a date that may begin with the day or the month.
    """
    if name is None:
        first = remarks.rows
        remarks.rows += len(table)
        return pa.array(np.arange(first, remarks.rows))
    given = plain_numbers(table.column(name), remarks)
    day_first, place = None, pc.index(slashed(given), True).as_py() if is_text(given.type) else -1
    if place >= 0 and (day_first := rules.day_first()) is None:
        raise ValueError(
            f"column {name!r}: {shown(given[place].as_py())} begins with the day or the month, and the dates of the "
            "log do not tell which: set data.day_first=true or false"
        )
    time, of = microseconds(given, day_first)
    remarks.units += of
    for unit in of.nonzero()[0]:
        if UNITS[unit] not in remarks.unit_examples:
            remarks.unit_examples[UNITS[unit]] = _first_time(given, int(unit))
    return time


def _ids(table: pa.Table, name: str, role: str, remarks: Remarks) -> pa.Array:
    try:
        return id_text(table.column(name), role, remarks)
    except ValueError as error:
        raise ValueError(f"column {name!r} {error}") from None


def _first_time(column: pa.ChunkedArray, unit: int) -> str:
    """A value of the column that is of the unit."""
    for step in (1000, 1):  # the first thousand that has one, then which of them
        starts = range(0, len(column), step)
        first = next(start for start in starts if microseconds(column.slice(start, step))[1][unit])
        column = column.slice(first, step)
    return str(column[0].as_py())


def _ratings(table: pa.Table, name: str | None, rules: Rules, remarks: Remarks) -> tuple[pa.Array, pa.Array]:
    """Ratings as float64, null where a row has none; and where there is something that is no number."""
    if name is None:
        return pa.nulls(len(table), pa.float64()), pa.array(np.zeros(len(table), bool))
    column = table.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        column = plain_numbers(pc.if_else(is_null_word(column, ["", *rules.null_words]), None, column), remarks)
    there = column.is_valid()
    number = _numbers(column)
    number = pc.if_else(pc.is_nan(number), None, number)
    wrong = pc.and_(there, number.is_null())
    if pa.types.is_floating(column.type):
        wrong = pc.and_(wrong, pc.invert(pc.is_nan(column).fill_null(True)))
    return number, wrong


def _numbers(column: pa.Array) -> pa.Array:
    """As float64, null where it is no number; text by text only where one of them is none."""
    try:
        return column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(column) <= 1:
            return pa.nulls(len(column), pa.float64())
    half = len(column) // 2
    return pa.concat_arrays([_numbers(column.slice(0, half)), _numbers(column.slice(half))])


def _without_null_words(left: pa.Array, ids: pa.Array, role: str, rules: Rules, remarks: Remarks) -> pa.Array:
    mask = is_null_word(ids, rules.null_words) if rules.null_words else None
    place = -1 if mask is None else pc.index(pc.and_(mask, left), True).as_py()
    if mask is None or place < 0:
        return left
    return _without(left, mask, f"{role} is a null word", f"{role} {shown(ids[place].as_py())}", remarks)


def _without(left: pa.Array, mask: pa.Array, reason: str, example: str, remarks: Remarks) -> pa.Array:
    """What is left without the rows of the mask, which are counted."""
    remarks.drop(reason, pc.sum(pc.and_(mask, left)).as_py(), example)
    return pc.and_(left, pc.invert(mask))


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


def require_columns(path: object, present: Iterable[str], wanted: dict[str, str], header: str | None = None) -> None:
    """Raises UserError where a column is missing.

    Args:
        path: of the file.
        present: names of its columns.
        wanted: who needs a column -> its name.
        header: the setting that names the columns of such a file where its first line is a row.
    """
    present = list(present)
    for setting, name in wanted.items():
        if name not in present:
            listed = ", ".join(name[:40] for name in present[:12]) + ", ..." * (len(present) > 12)
            strange = any(part.replace(".", "").isdigit() for part in present) or not {*wanted.values()} & {*present}
            asked = ""
            if strange and header:
                asked = f"; is its first line a row? {header}=[...] names the columns then, in order"
            elif setting == "data.columns.time":
                asked = "; where its rows stand in the order of time, set data.columns.time=null"
            elif setting == "data.columns.item" and "data.columns.title" in wanted:
                asked = "; where the items call it otherwise than the log, set data.columns.id"
            raise UserError(f"{path}: no column {name!r} ({setting}); it has {listed}{asked}")
