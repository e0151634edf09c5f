"""A file of histories in parts, and the lists of a part: what one engine reads and writes at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blade_dist.errors import UserError, nearest
from blade_dist.serving.recommend import Recommender
from blade_dist.serving.request import ListRequest, Resolved, Resolver
from blade_dist.store.arrow import write_table
from blade_dist.store.fingerprint import fingerprint

USER, FIELDS = "user", tuple(ListRequest.model_fields)
"""Columns that are read; the others are left alone."""
TEXTS = pa.list_(pa.string())


class HistoryFile:
    """A Parquet or Arrow file whose rows are requests: ``history``, and perhaps ``user`` and the other fields."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: no such file, one of another format, or no column ``history``.
        """
        self.path, self._is_parquet = path, path.suffix == ".parquet"
        try:
            opened = pq.ParquetFile(path) if self._is_parquet else pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError:
            raise UserError(f"--histories {path}: no such file") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"--histories {path}: neither Parquet nor an Arrow file: {error}") from None
        self._file: Any = opened
        self.schema: Any = self._file.schema_arrow if self._is_parquet else self._file.schema
        if "history" not in self.schema.names:
            near = nearest("history", self.schema.names) if self.schema.names else "none"
            raise UserError(f"--histories {path}: no column history (a list of item ids a row); did you mean {near}?")

    def __len__(self) -> int:
        if self._is_parquet:
            return int(self._file.metadata.num_rows)
        return sum(batch.num_rows for batch in self._arrow())

    def parts(self, rows: int) -> Iterator[pa.Table]:
        """The columns that are read, so many rows at a time."""
        names = [name for name in (USER, *FIELDS) if name in self.schema.names]
        if self._is_parquet:
            return _even(self._file.iter_batches(batch_size=rows, columns=names), rows)
        return _even((batch.select(names) for batch in self._arrow()), rows)

    def _arrow(self) -> Iterator[pa.RecordBatch]:
        return (self._file.get_batch(number) for number in range(self._file.num_record_batches))

    def fingerprint(self) -> str:
        """Changes when the file does; reads none of it."""
        state = self.path.stat()
        return fingerprint(str(self.schema), state.st_size, state.st_mtime_ns)


@dataclass(frozen=True)
class Job:
    """Which lists are written, and where to."""

    file: Path
    """Of the histories."""
    folder: Path
    """Of the parts."""
    given: dict[str, Any]
    """Fields of every request that has none of its own."""
    rows: int
    """Of a part."""

    def path(self, number: int) -> Path:
        """Of a part's lists."""
        return self.folder / f"{number:08}.arrow"


class PartWriter:
    """Writes parts with one engine; reads on in the file where the next one comes later, as they mostly do."""

    def __init__(self, recommender: Recommender, job: Job) -> None:
        self._recommender, self._job = recommender, job
        self._resolver, self._file = Resolver(recommender.opened), HistoryFile(job.file)
        self._parts = self._file.parts(job.rows)
        self._next = 0

    def write(self, number: int) -> int:
        """Writes a part; how many lists it has."""
        if number < self._next:
            self._parts, self._next = self._file.parts(self._job.rows), 0
        while self._next < number:
            next(self._parts)
            self._next += 1
        table = next(self._parts)
        self._next += 1
        requests = resolved(self._resolver, self._job, number, table)
        write_table(_answered(self._recommender, table, requests), self._job.path(number))
        return len(requests)


def resolved(resolver: Resolver, job: Job, number: int, table: pa.Table) -> list[Resolved]:
    """The requests of a part.

    Raises:
        UserError: a row that can't be answered; it is named.
    """
    first = number * job.rows
    where = [f"{job.file}, row {first + row}: " for row in range(len(table))]
    contents = table.drop_columns([USER] if USER in table.column_names else []).to_pylist()
    requests = [resolver.parse(_plain(row), at, job.given) for row, at in zip(contents, where, strict=True)]
    return resolver.resolve(requests, where)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Without what is null; a map comes as pairs."""
    plain = {name: value for name, value in row.items() if value is not None}
    if isinstance(plain.get("at_most"), list):
        plain["at_most"] = dict(plain["at_most"])
    return plain


def _answered(engine: Recommender, table: pa.Table, requests: list[Resolved]) -> pa.Table:
    catalog = engine.opened.catalog
    lists = engine.lists(requests)
    columns: dict[str, Any] = {USER: table[USER]} if USER in table.column_names else {}
    columns |= {
        "items": pa.array([catalog.item_ids[items].tolist() for items, _ in lists], TEXTS),
        "titles": pa.array([catalog.titles[items].tolist() for items, _ in lists], TEXTS),
        "logprobs": pa.array([values.tolist() for _, values in lists], pa.list_(pa.float32())),
        "skipped": pa.array([one.skipped for one in requests], TEXTS),
        "cut": pa.array([one.cut for one in requests], pa.int32()),
    }
    return pa.table(columns)


def _even(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of so many rows, the last one of what is left; a large batch is cut without a copy."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        while sum(part.num_rows for part in held) >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            held = table.slice(rows).to_batches()
    if sum(part.num_rows for part in held):
        yield pa.Table.from_batches(held)
