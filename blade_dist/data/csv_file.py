"""CSV files: columns as text, through Ray Data or at once, and the line that can't be read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv
import ray.data

from blade_dist.data.rawlog import LogColumns, first_bad, normalise, require_columns
from blade_dist.errors import UserError

_BLOCK = 1 << 24
"""Bytes that are parsed at once; a row must fit."""


def header(path: Path) -> list[str]:
    """The column names.

    Raises:
        UserError: an empty file.
    """
    with _open(path) as lines:
        for names in csv.reader(lines):
            return names
    raise UserError(f"{path}: the file is empty; its first line must name the columns")


def stream_log(paths: list[Path], columns: LogColumns) -> ray.data.Dataset:
    """The interactions of CSV files (all with ``columns``), normalised."""
    read = ray.data.read_csv(
        [str(path) for path in paths],
        file_extensions=None,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=_as_text(columns.names()),
    )
    return read.map_batches(partial(normalise, columns=columns), batch_format="pyarrow", batch_size=None)


def bad_row(paths: list[Path], columns: LogColumns) -> str | None:
    """``file:line: what is wrong`` of the first row that can't be normalised."""
    for path in paths:
        names = header(path)
        where = {name: names.index(name) for name in columns.names()}

        def check(rows: list[list[str]], where: dict[str, int] = where) -> pa.Table:
            return normalise(pa.table({name: [row[i] for row in rows] for name, i in where.items()}), columns)

        rows = ((f"{path}:{line}", row) for line, row in _rows(path))
        if problem := uneven_row(path) or first_bad(rows, check):
            return problem
    return None


def read_items(path: Path, wanted: dict[str, str]) -> pa.Table:
    """Columns of a CSV file as text, at once; ``wanted``: who needs it -> the column's name.

    Raises:
        UserError: a missing column, a row with the wrong number of fields.
    """
    require_columns(path, header(path), wanted)
    names = list(dict.fromkeys(wanted.values()))
    try:
        return arrow_csv.read_csv(
            path, parse_options=arrow_csv.ParseOptions(newlines_in_values=True), convert_options=_as_text(names)
        )
    except pa.ArrowInvalid as error:
        raise UserError(uneven_row(path) or f"{path}: {error}") from None


def line_of(path: Path, row: int) -> int:
    """The line where a row ends; ``row``: counted from 0 below the first line."""
    return next(line for number, (line, _) in enumerate(_rows(path)) if number == row)


def uneven_row(path: Path) -> str | None:
    """``file:line: ...`` of the first row with more or fewer fields than the first line."""
    width = len(header(path))
    for line, row in _rows(path):
        if len(row) != width:
            return f"{path}:{line}: {len(row)} fields where the first line has {width}"
    return None


def _as_text(names: list[str]) -> arrow_csv.ConvertOptions:
    return arrow_csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )


def _open(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(pa.input_stream(str(path)), encoding="utf-8-sig", errors="replace", newline="")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number where the row ends, fields) of every row below the first; blank lines are none."""
    with _open(path) as lines:
        reader = csv.reader(lines)
        next(reader)
        for row in reader:
            if row:
                yield reader.line_num, row
