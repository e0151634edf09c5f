"""JSON, an object a line (or one array of objects): the wanted fields, block by block, and the line that can't be read.

A line may also be written as Python writes a dict, as in the 2014 files of Amazon's reviews.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow_json

from blade_dist.data.found import DataFile
from blade_dist.data.rawlog import first_bad
from blade_dist.errors import UserError

BLOCK = 1 << 24
"""Bytes that are parsed at once; a line must fit."""
_LOOKED_AT = 500
"""Lines by which names and types of fields are known."""
_ROWS = 10_000
"""Rows at once, where Python reads them."""


class JsonTable:
    """Fields of a file.

    Args:
        file: not empty.
        types: of fields, where they are known; those of others are seen by the first lines.

    Raises:
        UserError: a first line that is no object.
    """

    def __init__(self, file: DataFile, types: pa.Schema | None = None) -> None:
        self.file, self._types = file, types
        head = file.head(4096).lstrip(b"\xef\xbb\xbf \r\n\t")
        self._is_array = head.startswith(b"[")
        first = next(self._lines(), None)
        if first is None:
            raise UserError(f"{file}: the file is empty; it must hold one JSON object a line")
        self._refuse_one_object(first[1])
        self._is_python = not self._is_array and not _is_json(first[1])
        self._first = list(islice(self._objects(), _LOOKED_AT))
        self.names = tuple(dict.fromkeys(name for _, row in self._first for name in row))

    def batches(self, wanted: list[str]) -> Iterator[pa.Table]:
        """The fields, block by block; null where an object has none.

        Raises:
            ValueError: a line that can't be read, see :meth:`problem`.
        """
        schema = self._schema(wanted)
        if self._is_array or self._is_python:
            rows = iter(self._objects())
            while part := list(islice(rows, _ROWS)):
                yield _table([row for _, row in part], schema)
            return
        options = arrow_json.ReadOptions(block_size=BLOCK)
        with self.file.open() as stream, arrow_json.open_json(stream, options, _parse(schema)) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch]).select(wanted)

    def problem(self, wanted: list[str], check: Callable[[pa.Table], object]) -> str | None:
        """``file:line: what is wrong`` of the first line that is no JSON or makes ``check`` raise a ValueError."""
        schema = self._schema(wanted)
        if self._is_array or self._is_python:
            return first_bad(self._objects(), lambda rows: check(_table(rows, schema)))

        def checked(lines: list[bytes]) -> None:
            check(arrow_json.read_json(BytesIO(b"\n".join(lines)), parse_options=_parse(schema)).select(wanted))

        return first_bad(self._lines(), checked)

    def _refuse_one_object(self, first: bytes) -> None:
        """UserError where one object holds all rows: by column, as pandas writes them, or as a list."""
        try:
            row = json.loads(first.decode("utf-8-sig"))
        except ValueError:
            return
        nested = isinstance(row, dict) and row and all(isinstance(value, dict | list) for value in row.values())
        if nested and not self._is_array and next(islice(self._lines(), 1, None), None) is None:
            raise UserError(
                f"{self.file}: one JSON object holds all rows; write an object a line, as pandas does with "
                "to_json(path, orient='records', lines=True)"
            )

    def _schema(self, wanted: list[str]) -> pa.Schema:
        known = self._types or pa.schema([])
        return pa.schema(
            [
                known.field(name) if name in known.names else (name, _type([row.get(name) for _, row in self._first]))
                for name in wanted
            ]
        )

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, object), as Python reads them."""
        if self._is_array:
            with self.file.open() as stream:
                try:
                    rows = json.loads(stream.read().decode("utf-8-sig"))
                except ValueError as error:
                    raise UserError(f"{self.file}: not JSON: {error}") from None
            yield from ((f"{self.file}: object {number}", row) for number, row in enumerate(rows, start=1))
            return
        for place, line in self._lines():
            try:
                row = ast.literal_eval(line.decode()) if self._is_python else json.loads(line)
            except (ValueError, SyntaxError, MemoryError) as error:
                raise UserError(f"{place}: not a JSON object: {' '.join(str(error).split())[:100]}") from None
            if not isinstance(row, dict):
                raise UserError(f"{place}: not a JSON object, but {type(row).__name__}")
            yield place, row

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """(``file:line``, text) of every line that isn't blank."""
        with self.file.open() as stream:
            for number, line in enumerate(_split(stream), start=1):
                if line.strip():
                    yield f"{self.file}:{number}", line


def _is_json(line: bytes) -> bool:
    """False where a line is what Python, and not JSON, calls an object."""
    try:
        json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return not line.lstrip().startswith(b"{'")
    return True


def _parse(schema: pa.Schema) -> arrow_json.ParseOptions:
    return arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        columns = [pa.array([_as(row.get(field.name), field.type) for row in rows], field.type) for field in schema]
    except pa.ArrowTypeError as error:
        raise ValueError(str(error)) from None
    return pa.table(columns, schema=schema)


def _as(value: Any, kind: pa.DataType) -> Any:
    return str(value) if pa.types.is_string(kind) and value is not None else value


def _type(values: list[Any]) -> pa.DataType:
    """The type that holds all values that are there."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return pa.bool_()
    if there and all(isinstance(value, int) for value in there):
        return pa.int64()
    if there and all(isinstance(value, int | float) for value in there):
        return pa.float64()
    if any(isinstance(value, list) for value in there):
        return pa.list_(_type([one for value in there for one in (value if isinstance(value, list) else [value])]))
    return pa.string()


def _split(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest
