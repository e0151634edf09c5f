"""A file of columns with types (Parquet, Arrow, ORC): block by block, and the row that can't be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.orc as arrow_orc
import pyarrow.parquet as pq

from blade_dist.data.found import DataFile
from blade_dist.data.rawlog import first_bad
from blade_dist.errors import UserError

TypedKind = Literal["parquet", "arrow", "orc"]
Batches = Callable[[list[str]], Iterator[pa.RecordBatch]]
"""Names of columns -> these columns and perhaps others, block by block, from the first row each time."""

_NAMES: dict[TypedKind, str] = {"parquet": "Parquet", "arrow": "Arrow", "orc": "ORC"}
_ROWS = 1 << 18
"""Rows at once, where the reader lets us choose."""


class TypedTable:
    """Columns of a file.

    Raises:
        UserError: it is not of the kind, or damaged.
    """

    def __init__(self, file: DataFile, kind: TypedKind) -> None:
        self.file, self._kind = file, _NAMES[kind]
        try:
            schema, self._read = _OPENED[kind](file)
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{file}: not readable as {self._kind}: {_line(error)}") from None
        self.names = tuple(schema.names)

    def batches(self, wanted: list[str]) -> Iterator[pa.Table]:
        """The columns, block by block."""
        if twice := [name for name in wanted if self.names.count(name) > 1]:
            raise UserError(f"{self.file}: several columns are called {twice[0]!r}; write it with a name for each")
        batches = self._read(wanted)
        while (table := self._next(batches, wanted)) is not None:
            yield _known_types(table)

    def _next(self, batches: Iterator[pa.RecordBatch], wanted: list[str]) -> pa.Table | None:
        try:
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{self.file}: damaged, not readable as {self._kind}: {_line(error)}") from None
        return None if batch is None else pa.Table.from_batches([batch]).select(wanted)

    def problem(self, wanted: list[str], check: Callable[[pa.Table], object]) -> str | None:
        """``file: row number: what is wrong`` of the first row that makes ``check`` raise a ValueError."""
        return first_bad(self._rows(wanted), lambda rows: check(pa.Table.from_batches(rows)))

    def _rows(self, wanted: list[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
        number = 0
        for table in self.batches(wanted):
            for batch in table.to_batches():
                for index in range(len(batch)):
                    number += 1
                    yield f"{self.file}: row {number}", batch.slice(index, 1)


def _parquet(file: DataFile) -> tuple[pa.Schema, Batches]:
    reader = pq.ParquetFile(file.seekable())
    return reader.schema_arrow, lambda wanted: reader.iter_batches(batch_size=_ROWS, columns=wanted)


def _orc(file: DataFile) -> tuple[pa.Schema, Batches]:
    reader = arrow_orc.ORCFile(file.seekable())
    return reader.schema, lambda wanted: (reader.read_stripe(n, wanted) for n in range(reader.nstripes))


def _arrow(file: DataFile) -> tuple[pa.Schema, Batches]:
    """A file of Arrow's IPC format (Feather, Polars), a stream of it (Hugging Face datasets)."""
    mark = file.head(6)
    if mark.startswith(b"FEA1"):
        raise UserError(f"{file}: Feather of version 1, which Arrow gives up; write it anew, as Parquet say")
    if mark != b"ARROW1":
        return pa.ipc.open_stream(file.open()).schema, lambda _: iter(pa.ipc.open_stream(file.open()))
    schema = pa.ipc.open_file(file.seekable()).schema

    def read(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        only = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in wanted])
        reader = pa.ipc.open_file(file.seekable(), options=only)
        return (reader.get_batch(number) for number in range(reader.num_record_batches))

    return schema, read


_OPENED: dict[TypedKind, Callable[[DataFile], tuple[pa.Schema, Batches]]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "orc": _orc,
}


def _known_types(table: pa.Table) -> pa.Table:
    """Views, as Polars and newer Arrow write texts and lists, as what they are views of."""
    fields = [pa.field(field.name, _viewed(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def _viewed(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_viewed(kind.value_type))
    return kind


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
