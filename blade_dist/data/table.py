"""Any log and items as CSV or Parquet, with ``data.columns`` saying which column is which."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from blade_dist.data import csv_file
from blade_dist.data.rawlog import LogColumns, RawLog, first_bad, normalise, require_columns, require_file
from blade_dist.errors import UserError
from blade_dist.settings import ColumnSettings, DataSettings


def read_table_log(settings: DataSettings, seed: int, folder: Path) -> RawLog:  # noqa: ARG001
    """The interactions and the items.

    Raises:
        UserError: a missing file or column, a file that is neither CSV nor Parquet, an unreadable item.
    """
    assert settings.path is not None  # checked by Config
    assert settings.items is not None
    given = settings.columns
    columns = LogColumns(given.user, given.item, given.time, given.rating)
    wanted = _settings(given, "user", "item", "time", "rating")
    paths, is_parquet = _files(settings.path, "data.path")
    for path in paths:
        names = parquet_columns(path) if is_parquet else csv_file.header(path)
        require_columns(path, names, wanted)
    if is_parquet:
        read = ray.data.read_parquet([str(path) for path in paths]).select_columns(list(dict.fromkeys(columns.names())))
        rows = read.map_batches(partial(normalise, columns=columns), batch_format="pyarrow", batch_size=None)
        bad_row = partial(_bad_parquet_row, paths, columns)
    else:
        rows = csv_file.stream_log(paths, columns)
        bad_row = partial(csv_file.bad_row, paths, columns)
    return RawLog(rows, _read_items(settings.items, given, settings.group_separator), bad_row)


def _settings(columns: ColumnSettings, *names: str) -> dict[str, str]:
    """Setting -> column, of those that are set."""
    return {f"data.columns.{name}": getattr(columns, name) for name in names if getattr(columns, name) is not None}


def _files(path: Path, setting: str) -> tuple[list[Path], bool]:
    """The files at ``path``, in the order of their names, and whether they are Parquet (else CSV)."""
    require_file(path, setting)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for is_parquet, suffixes in ((True, {".parquet", ".pq"}), (False, {".csv"})):
        chosen = [file for file in files if suffixes.intersection(file.suffixes)]
        if chosen:
            return chosen, is_parquet
    raise UserError(f"{setting}: {path} is neither .csv nor .parquet, nor a folder with such files")


def _bad_parquet_row(paths: list[Path], columns: LogColumns) -> str | None:
    """``file: row number: what is wrong`` of the first row that can't be normalised."""
    return first_bad(_parquet_rows(paths, columns), lambda rows: normalise(pa.Table.from_batches(rows), columns))


def _parquet_rows(paths: list[Path], columns: LogColumns) -> Iterator[tuple[str, pa.RecordBatch]]:
    for path in paths:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(columns=columns.names()):
            for index in range(len(batch)):
                number += 1
                yield f"{path}: row {number}", batch.slice(index, 1)


def _read_items(path: Path, columns: ColumnSettings, separator: str) -> pa.Table:
    wanted = _settings(columns, "item", "title", "groups", "embedding")
    parts = []
    paths, is_parquet = _files(path, "data.items")
    for file in paths:
        if is_parquet:
            require_columns(file, parquet_columns(file), wanted)
            table = pq.read_table(file, columns=list(wanted.values()))
        else:
            table = csv_file.read_items(file, wanted)
        parts.append(_standard(table, file, columns, separator))
    return pa.concat_tables(parts)


def _standard(table: pa.Table, path: Path, columns: ColumnSettings, separator: str) -> pa.Table:
    named = {
        "item": table.column(columns.item).cast(pa.string()),
        "title": table.column(columns.title).cast(pa.string()),
        "groups": pa.nulls(len(table), pa.list_(pa.string())),
    }
    if columns.groups is not None:
        groups = table.column(columns.groups)
        if not is_list(groups.type):
            groups = pc.split_pattern(groups.cast(pa.string()), separator)
        named["groups"] = groups.cast(pa.list_(pa.string()))
    if columns.embedding is not None:
        vectors = table.column(columns.embedding)
        if not is_list(vectors.type):
            raise UserError(f"{path}: column {columns.embedding!r} (data.columns.embedding) is not a list of floats")
        named["embedding"] = vectors.cast(pa.list_(pa.float32()))
    return pa.table(named)


def parquet_columns(path: Path) -> list[str]:
    """The names of a Parquet file's columns; UserError where it is none."""
    try:
        return list(pq.read_schema(path).names)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not readable as Parquet: {error}") from None


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's types of lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
