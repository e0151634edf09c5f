"""JSON, an object a line (or one array of objects): the wanted fields, block by block, and the line that can't be read.

A line may also be written as Python writes a dict, as in the 2014 files of Amazon's reviews. A block that Arrow does
not read, as numbers and texts are mixed in a field or MongoDB wrote ``{"$oid": "7"}`` for a value, is read by Python.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow_json

from blade_dist.data.found import DataFile
from blade_dist.data.list_text import values
from blade_dist.data.rawlog import first_bad
from blade_dist.data.remarks import shown
from blade_dist.errors import UserError

BLOCK = 1 << 24
"""Bytes that are parsed at once; a line must fit."""
_MARK = b"\xef\xbb\xbf"
"""Of the byte order, before the first line."""
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
        head = file.head(4096).lstrip(_MARK + b" \r\n\t")
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
        if self._is_array or self._is_python:
            rows = iter(self._objects())
            while part := list(islice(rows, _ROWS)):
                yield self._table(wanted, [row for _, row in part])
            return
        schema = pa.schema([(name, self._type(name, [])) for name in wanted])
        for lines in self._blocks():
            try:
                read = arrow_json.ReadOptions(block_size=len(lines) + 1)
                table = arrow_json.read_json(pa.BufferReader(lines), read, _parse(schema))
            except pa.ArrowInvalid:
                yield self._table(wanted, [_of_json(line) for line in lines.split(b"\n") if line.strip()])
            else:
                yield table.select(wanted)

    def problem(self, wanted: list[str], check: Callable[[pa.Table], object]) -> str | None:
        """``file:line: what is wrong`` of the first line that is no JSON or makes ``check`` raise a ValueError."""
        if self._is_array or self._is_python:
            return first_bad(self._objects(), lambda rows: check(self._table(wanted, rows)))
        return first_bad(self._lines(), lambda lines: check(self._table(wanted, list(map(_of_json, lines)))))

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

    def _table(self, wanted: list[str], rows: list[dict[str, Any]]) -> pa.Table:
        return pa.table({name: _column(name, rows, self._type(name, rows)) for name in wanted})

    def _type(self, name: str, rows: list[dict[str, Any]]) -> pa.DataType:
        """As it is known, or as these rows have it, or, where they have none, as the first rows do."""
        if self._types is not None and name in self._types.names:
            return self._types.field(name).type
        for of in (rows, [row for _, row in self._first]):
            if there := [value for row in of if (value := row.get(name)) is not None]:
                return _type(there)
        return pa.string()

    def _blocks(self) -> Iterator[bytes]:
        """Whole lines, as many as end within :data:`BLOCK` bytes."""
        begun = b""
        with self.file.open() as stream:
            while chunk := stream.read(BLOCK):
                lines, end, rest = chunk.rpartition(b"\n")
                if end and (block := (begun + lines).removeprefix(_MARK)).strip():
                    yield block
                begun = rest if end else begun + chunk
        if begun.strip():
            yield begun.removeprefix(_MARK)

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, object), as Python reads them."""
        if self._is_array:
            with self.file.open() as stream:
                try:
                    rows = json.loads(stream.read().decode("utf-8-sig"))
                except ValueError as error:
                    raise UserError(f"{self.file}: not JSON: {error}") from None
            for number, row in enumerate(rows, start=1):
                yield (place := f"{self.file}: object {number}"), self._at(place, _fields, row)
            return
        read = _of_python if self._is_python else _of_json
        for place, line in self._lines():
            yield place, self._at(place, read, line)

    @staticmethod
    def _at(place: str, read: Callable[[Any], dict[str, Any]], given: Any) -> dict[str, Any]:
        try:
            return read(given)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """(``file:line``, text) of every line that isn't blank."""
        with self.file.open() as stream:
            for number, line in enumerate(_split(stream), start=1):
                if line.strip():
                    yield f"{self.file}:{number}", line


def _of_json(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix(_MARK))
    except (ValueError, RecursionError) as error:
        raise ValueError(_no_object(error)) from None
    return _fields(row)


def _of_python(line: bytes) -> dict[str, Any]:
    try:
        row = ast.literal_eval(line.decode("utf-8-sig"))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(_no_object(error)) from None
    return _fields(row)


def _no_object(error: Exception) -> str:
    return f"not a JSON object: {' '.join(str(error).split())[:100]}"


def _fields(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"an object is needed, not {type(row).__name__}")  # noqa: TRY004 - of a file, as what json raises
    return {name: _unwrapped(value) for name, value in row.items()}


def _unwrapped(value: Any) -> Any:
    """The value that MongoDB wraps with its type: ``{"$date": {"$numberLong": "1600000000000"}}``."""
    while isinstance(value, dict) and len(value) == 1 and (name := next(iter(value))).startswith("$"):
        value = value[name]
    return value


def _is_json(line: bytes) -> bool:
    """False where a line is what Python, and not JSON, calls an object."""
    try:
        json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return not line.lstrip().startswith((b"{'", b"{u'", b'{u"'))
    return True


def _parse(schema: pa.Schema) -> arrow_json.ParseOptions:
    return arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")


def _column(name: str, rows: list[dict[str, Any]], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([_as(row.get(name), kind) for row in rows], kind)
    except (pa.ArrowTypeError, OverflowError, ValueError) as error:
        raise ValueError(f"field {name!r}: {error}") from None


def _as(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind) and value is not None:
        if isinstance(value, dict):
            raise ValueError(f"an object, {shown(value)}; name a field of plain values")
        # half of a character, where a program cut a text between two \uXXXX, is one that was lost
        return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if pa.types.is_list(kind) and any(isinstance(one, dict) for one in value or []):
        return values(value)
    return value


def _type(values: list[Any]) -> pa.DataType:
    """The type that holds all values that are there."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return pa.bool_()
    if there and all(isinstance(value, int) for value in there):
        return pa.int64() if max(map(abs, there)) < 2**63 else pa.string()
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
