"""A Parquet file: columns with their types, block by block, and the row that can't be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from blade_dist.data.found import DataFile
from blade_dist.data.rawlog import first_bad
from blade_dist.errors import UserError


class ParquetTable:
    """Columns of a file.

    Raises:
        UserError: it is no Parquet, or damaged.
    """

    def __init__(self, file: DataFile) -> None:
        self.file = file
        try:
            self._read = pq.ParquetFile(file.seekable())
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{file}: not readable as Parquet: {_line(error)}") from None
        self.names = tuple(self._read.schema_arrow.names)

    def batches(self, wanted: list[str]) -> Iterator[pa.Table]:
        """The columns, block by block."""
        batches = self._read.iter_batches(batch_size=1 << 18, columns=wanted)
        while (table := self._next(batches, wanted)) is not None:
            yield _known_types(table)

    def _next(self, batches: Iterator[pa.RecordBatch], wanted: list[str]) -> pa.Table | None:
        try:
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{self.file}: damaged, not readable as Parquet: {_line(error)}") from None
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
