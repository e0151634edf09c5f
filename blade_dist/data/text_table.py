"""A file of delimited text: all columns as text, block by block, and the line that can't be read."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv as arrow_csv

from blade_dist.data.dialect import LONGEST_FIELD, Dialect
from blade_dist.data.found import DataFile
from blade_dist.data.rawlog import DROPPABLE, first_bad
from blade_dist.data.remarks import Remarks, shown
from blade_dist.data.unended import RowLike

BLOCK = 1 << 24
"""Bytes that are parsed at once; a row must fit."""
_CUT = "unexpected end of data"
"""What Python's reader says of a quote that nothing ends."""
_UNENDED = (
    "a quote begins a field there that nothing ends, so that rows become a part of it: end it, write one that is a "
    "letter twice, or set data.quoted=false where all are letters"
)


class TextTable:
    """Columns of a file, as text.

    Args:
        file: what is read.
        dialect: how it is written.
        skipped: counts rows with more or fewer fields than there are names, which are left out; None: they are errors.
    """

    def __init__(self, file: DataFile, dialect: Dialect, skipped: Remarks | None = None) -> None:
        self.file, self.dialect, self.names, self._skipped = file, dialect, dialect.names, skipped

    def batches(self, wanted: list[str]) -> Iterator[pa.Table]:
        """The columns, block by block; an empty text where there is nothing.

        Raises:
            ValueError: a row that can't be read, see :meth:`problem`.
        """
        rows = 0
        for batch in self._parsed(wanted, None if self._skipped is None else self._skip):
            rows += len(batch)
            yield pa.Table.from_batches([batch])
        more = self._lines() - self.dialect.head - rows if self.dialect.quote is not None else 0
        # a field that swallowed whole rows has two ends of lines at least
        if (more > 1 and self._has_swallowed()) or (more > 0 and self._torn() is not None):
            raise ValueError(f"{self.file}: {_UNENDED}")

    def _lines(self) -> int:
        """Of the file, the last one too where nothing ends it."""
        count, last = 0, b"\n"
        with self.file.open() as stream:
            for chunk in iter(lambda: stream.read(BLOCK), b""):
                count, last = count + chunk.count(b"\n"), chunk[-1:]
        return count + (last != b"\n")

    def _has_swallowed(self) -> bool:
        """Whether a field of any column holds rows."""
        batches = self._parsed(list(self.names), lambda _: "skip")
        return any(self._row_like.is_in(column) for batch in batches for column in batch.columns)

    @cached_property
    def _row_like(self) -> RowLike:
        return RowLike(next((row for _, row in self._rows()), []), self.dialect.delimiter)

    def _torn(self) -> int | None:
        """Line of the first of two rows that became one, as ``a,"12 in`` and ``b,"9 in`` below it do.

        Their field has several lines, and ends at a quote that was meant to begin one, or not at all.
        """
        mark, last = re.escape(self.dialect.delimiter), ""

        def noted(lines: Iterable[str]) -> Iterator[str]:
            nonlocal last
            for line in lines:
                last = line
                yield line

        with self._lines_below() as lines:
            reader, end = self._reader(noted(lines), strict=True), 0
            while True:
                try:
                    if next(reader, None) is None:
                        return None
                except csv.Error as error:
                    begins = re.search(rf"(?:^|{mark}){self.dialect.quote}[^{mark}\r\n{self.dialect.quote}]", last)
                    if reader.line_num > end + 1 and (begins or _CUT in str(error)):
                        return self.dialect.head + end + 1
                end = reader.line_num

    def _parsed(self, wanted: list[str], skip: Callable[[Any], str] | None) -> Iterator[pa.RecordBatch]:
        given = self.dialect
        read = arrow_csv.ReadOptions(
            block_size=BLOCK, column_names=list(self.names), skip_rows=given.head, encoding=given.encoding
        )
        parse = arrow_csv.ParseOptions(
            delimiter=given.delimiter,
            quote_char=given.quote or False,
            escape_char="\\" if given.escaped else False,
            newlines_in_values=given.quote is not None,
            invalid_row_handler=skip,
        )
        convert = arrow_csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        )
        try:
            yield from arrow_csv.open_csv(self._stream(), read, parse, convert)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):  # the first line is all there is
                return
            raise

    def problem(self, wanted: list[str], check: Callable[[pa.Table], object]) -> str | None:
        """``file:line: what is wrong`` of the first row that can't be read or makes ``check`` raise a ValueError."""
        if not self.dialect.wide and (wrong := self._undecodable()):
            return wrong
        where = {name: self.names.index(name) for name in wanted}
        width = len(self.names)

        def checked(rows: list[list[str]]) -> None:
            if self._row_like.is_in(pa.array([field for row in rows for field in row if "\n" in field], pa.string())):
                raise ValueError(_UNENDED)
            whole = [row for row in rows if len(row) == width]
            if self._skipped is None and len(whole) < len(rows):
                odd = next(len(row) for row in rows if len(row) != width)
                raise ValueError(f"{odd} fields where the first line has {width}{DROPPABLE}")
            check(pa.table({name: pa.array([row[i] for row in whole], pa.string()) for name, i in where.items()}))

        bad = first_bad(((f"{self.file}:{line}", row) for line, row in self._rows()), checked)
        if bad is None and self.dialect.quote is not None and (line := self._torn()):
            return f"{self.file}:{line}: {_UNENDED}"
        return bad

    def line_of(self, row: int) -> int:
        """The line where a row begins; ``row``: counted from 0 below the first line."""
        return next(line for number, (line, _) in enumerate(self._rows()) if number == row)

    def _skip(self, row: Any) -> str:
        assert self._skipped is not None
        if self.dialect.quote is not None and self._row_like.is_in(pa.array([row.text])):
            return "error"
        what = f"{row.actual_columns} fields where there are {row.expected_columns} columns: {shown(row.text)}"
        self._skipped.drop("another number of fields", 1, f"{self.file}: {what}")
        return "skip"

    def _stream(self) -> pa.NativeFile:
        separator, delimiter = self.dialect.separator, self.dialect.delimiter
        stream = self.file.open()
        if separator == delimiter:
            return stream
        return pa.PythonFile(cast(IO[bytes], _Replaced(stream, separator.encode(), delimiter.encode())), mode="r")

    def _undecodable(self) -> str | None:
        with self.file.open() as stream:
            for number, line in enumerate(io.BufferedReader(cast(Any, stream)), start=1):
                try:
                    line.decode(self.dialect.encoding)
                except UnicodeDecodeError as error:
                    return (
                        f"{self.file}:{number}: not {self.dialect.encoding.upper()} (byte {line[error.start]:#04x}); "
                        "if it is Latin-1, set data.encoding=latin-1"
                    )
        return None

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line number where the row begins, fields) of every row; blank lines are none."""
        with self._lines_below() as lines:
            reader, end = self._reader(lines), 0
            for row in reader:
                if row:
                    yield self.dialect.head + end + 1, row
                end = reader.line_num

    @contextmanager
    def _lines_below(self) -> Iterator[io.TextIOWrapper]:
        """The lines below the first one."""
        with self._stream() as stream:
            encoding = "utf-8-sig" if self.dialect.encoding == "utf-8" else self.dialect.encoding
            lines = io.TextIOWrapper(cast(Any, stream), encoding=encoding, errors="replace", newline="")
            for _ in range(self.dialect.head):
                lines.readline()
            yield lines

    def _reader(self, lines: Iterable[str], strict: bool = False) -> Any:
        """Python's reader; ``strict``: it raises where something stands behind the quote that ends a field."""
        given = self.dialect
        csv.field_size_limit(LONGEST_FIELD)
        return csv.reader(
            lines,
            delimiter=given.delimiter,
            quotechar=given.quote or '"',
            quoting=csv.QUOTE_NONE if given.quote is None else csv.QUOTE_MINIMAL,
            doublequote=not given.escaped,
            escapechar="\\" if given.escaped else None,
            strict=strict,
        )


class _Replaced:
    """A stream of bytes in which a separator of several characters is a single one."""

    def __init__(self, stream: pa.NativeFile, old: bytes, new: bytes) -> None:
        self._stream, self._old, self._new, self._rest, self.closed = stream, old, new, b"", False

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        text = self._rest + chunk
        # A separator may be cut in two: what could be its beginning waits for the next read.
        held = 1 if chunk and text.endswith(self._old[:1]) else 0
        self._rest = text[len(text) - held :] if held else b""
        return text[: len(text) - held].replace(self._old, self._new) or (self.read(size) if chunk else b"")

    def close(self) -> None:
        self._stream.close()
        self.closed = True
