"""Files of any kind as tables with names and blocks of rows; partition columns are columns too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from blade_dist.data.damaged import readable
from blade_dist.data.dialect import sniff
from blade_dist.data.found import DataFile, find, kind_of
from blade_dist.data.json_table import JsonTable
from blade_dist.data.rawlog import LogColumns, Rules, normalise
from blade_dist.data.remarks import Remarks
from blade_dist.data.spelt import days_seen, is_text
from blade_dist.data.text_table import TextTable
from blade_dist.data.typed_table import TypedTable
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings


class Table(Protocol):
    """What :class:`TextTable`, :class:`TypedTable` and :class:`JsonTable` have in common."""

    file: DataFile
    names: tuple[str, ...]

    def batches(self, wanted: list[str]) -> Iterator[pa.Table]: ...

    def problem(self, wanted: list[str], check: Callable[[pa.Table], object]) -> str | None: ...


Shape = Callable[[pa.Table, LogColumns], pa.Table]
"""Makes rows of interactions of a table's rows."""


@dataclass(frozen=True)
class Keyed:
    """A table with the partition columns of its file beside its own."""

    table: Table

    @property
    def file(self) -> DataFile:
        return self.table.file

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.table.names, *(name for name in self.file.keys if name not in self.table.names))

    def batches(self, wanted: list[str]) -> Iterator[pa.Table]:
        """See the table's own."""
        with readable(self.file):
            for batch in self.table.batches(self._own(wanted)):
                yield self._whole(batch, wanted)

    def problem(self, wanted: list[str], check: Callable[[pa.Table], object]) -> str | None:
        """See the table's own."""
        return self.table.problem(self._own(wanted), lambda part: check(self._whole(part, wanted)))

    def _own(self, wanted: list[str]) -> list[str]:
        return [name for name in wanted if name in self.table.names]

    def _whole(self, part: pa.Table, wanted: list[str]) -> pa.Table:
        keys = {
            name: pa.array([self.file.keys[name]] * len(part), pa.string())
            for name in wanted
            if name not in part.column_names
        }
        return pa.table({name: keys[name] if name in keys else part.column(name) for name in wanted})


def rules_of(settings: DataSettings) -> Rules:
    """Of the ``data`` section."""
    return Rules(settings.bad_rows == "drop", tuple(settings.null_words), lambda: settings.day_first)


def open_tables(
    path: Path,
    setting: str,
    settings: DataSettings,
    wanted: set[str],
    remarks: Remarks,
    prefer: tuple[str, ...] = (),
    header: Sequence[str] | None = None,
) -> list[Keyed]:
    """The tables at a path, in the order of their names.

    Args:
        path: see :func:`blade_dist.data.found.find`.
        setting: that names the path.
        settings: says how text is written.
        wanted: names of columns that may be there, by which a separator is seen.
        remarks: counts rows that are no rows, where such are left out.
        prefer: suffixes of which only those are read, where there are some.
        header: names of the columns of text whose first line is a row; None: that line names them.

    Raises:
        UserError: nothing there, a damaged file, a first line that is none.
    """
    return [Keyed(open_table(file, settings, wanted, remarks, header)) for file in find(path, setting, remarks, prefer)]


def open_table(
    file: DataFile, settings: DataSettings, wanted: set[str], remarks: Remarks, header: Sequence[str] | None = None
) -> Table:
    """See :func:`open_tables`."""
    with readable(file):
        kind = kind_of(file)
        if kind in ("parquet", "arrow", "orc"):
            return TypedTable(file, kind)
        if kind == "json":
            return JsonTable(file)
        dialect = sniff(file, wanted, settings.separator, settings.encoding, header, settings.quoted)
        for name in sorted(dialect.repeated & wanted):
            remarks.hint(f"several columns are called {name!r}, and the first of them is read", str(file))
        return TextTable(file, dialect, remarks if settings.bad_rows == "drop" else None)


def whole(table: Keyed, wanted: list[str]) -> pa.Table:
    """Columns of a table at once.

    Raises:
        UserError: a row that can't be read, with its place.
    """
    try:
        parts = list(table.batches(wanted)) or [pa.table({name: pa.array([], pa.string()) for name in wanted})]
        return pa.concat_tables(_alike(parts), promote_options="permissive")
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = table.problem(wanted, lambda part: part) or f"{table.file}: {' '.join(str(error).split())[:160]}"
        raise UserError(reason) from None


def _alike(parts: list[pa.Table]) -> list[pa.Table]:
    """With text for a field that has numbers in one part and text in another, as in a file of JSON."""
    texts = {
        field.name
        for part in parts
        for field in part.schema
        if pa.types.is_string(field.type) and any(field.type != other.schema.field(field.name).type for other in parts)
    }
    fields = [pa.field(field.name, pa.string() if field.name in texts else field.type) for field in parts[0].schema]
    return [part.cast(pa.schema(fields)) for part in parts] if texts else parts


def stream(
    tables: Iterable[tuple[Keyed, LogColumns]],
    rules: Rules,
    remarks: Remarks,
    shape: Shape = lambda part, of: part,  # noqa: ARG005
) -> Iterator[pa.Table]:
    """Interactions of all tables as :data:`blade_dist.data.rawlog.LOG_SCHEMA`, block by block."""
    for table, columns in tables:
        for part in table.batches(list(dict.fromkeys(columns.names()))):
            yield normalise(shape(part, columns), columns, rules, remarks)


def day_first(
    tables: Iterable[tuple[Keyed, LogColumns]],
    shape: Shape = lambda part, of: part,  # noqa: ARG005
) -> bool | None:
    """Whether the day is first in dates as 31/01/2024: a number above 12 is never a month. None: nothing tells, or some
    dates have it first and others second."""
    first = second = False
    for table, columns in tables:
        with suppress(ValueError):  # of a row that can't be read, where the log is read itself
            for part in table.batches(list(dict.fromkeys(columns.names()))):
                times = shape(part, columns).column(columns.time)
                if is_text(times.type):
                    day, month = days_seen(times)
                    first, second = first or day, second or month
    return None if first == second else first


def bad_row(
    tables: Iterable[tuple[Keyed, LogColumns]],
    rules: Rules,
    shape: Shape = lambda part, of: part,  # noqa: ARG005
) -> str | None:
    """Where the first row is that can't be read, and what is wrong with it."""
    for table, columns in tables:
        names = list(dict.fromkeys(columns.names()))

        def check(part: pa.Table, of: LogColumns = columns) -> pa.Table:
            return normalise(shape(part, of), of, rules, Remarks())

        if problem := table.problem(names, check):
            return problem
    return None
