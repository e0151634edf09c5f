"""Histories in a file of any size to lists in a file: part by part, so that what is stopped goes on where it was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blade_dist.errors import UserError, nearest
from blade_dist.serving.recommend import Recommender
from blade_dist.serving.request import ListRequest, Resolved, Resolver
from blade_dist.store.arrow import read_table, write_table
from blade_dist.store.files import read_json, whole_file, write_json
from blade_dist.store.fingerprint import fingerprint

ROWS = 4096
"""Rows of a part: what is read, written and lost at once."""
USER, FIELDS = "user", tuple(ListRequest.model_fields)
"""Columns that are read; the others are left alone."""
_TEXTS = pa.list_(pa.string())


@dataclass(frozen=True)
class Progress:
    """How far it is."""

    done: int
    rows: int
    per_second: float
    """Lists, since this process began to write them."""


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


def recommend_file(
    recommender: Callable[[], Recommender],
    resolver: Resolver,
    file: HistoryFile,
    out: Path,
    given: dict[str, Any],
    said: Callable[[Progress], None],
    rows: int = ROWS,
) -> int:
    """Writes a row for each row of ``file``, in order; returns how many ids of histories were skipped.

    Every row is checked before an engine starts. Parts that an earlier process has written are kept; ``out`` appears
    when it is whole.

    Args:
        recommender: starts the engine; called once, if there is anything to write.
        resolver: of the export.
        file: the requests.
        out: ``.parquet`` or ``.arrow``.
        given: fields of every request that has none of its own.
        said: is told how far it is, after every part.
        rows: of a part.

    Raises:
        UserError: a row that can't be answered; a file ``out`` that is there, or parts of other requests.
    """
    if out.exists():
        raise UserError(f"--out {out}: exists; delete it, or choose another one")
    if out.suffix not in (".parquet", ".arrow"):
        raise UserError(f"--out {out}: must end with .parquet or .arrow")
    skipped = sum(len(one.skipped) for part in _resolved(resolver, file, given, rows) for one in part)
    parts = _parts(resolver, file, out, given, rows)
    total, paths, began, fresh = len(file), [], time.perf_counter(), 0
    engine: Recommender | None = None
    for number, (table, requests) in enumerate(
        zip(file.parts(rows), _resolved(resolver, file, given, rows), strict=True)
    ):
        paths.append(parts / f"{number:08}.arrow")
        if paths[-1].is_file():
            continue
        if engine is None:
            engine, began = recommender(), time.perf_counter()
        write_table(_answered(engine, table, requests), paths[-1])
        fresh += len(requests)
        said(Progress(number * rows + len(requests), total, fresh / (time.perf_counter() - began)))
    _join(paths, _schema(file), out)
    shutil.rmtree(parts)
    return skipped


def _resolved(resolver: Resolver, file: HistoryFile, given: dict[str, Any], rows: int) -> Iterator[list[Resolved]]:
    for number, table in enumerate(file.parts(rows)):
        first = number * rows
        where = [f"{file.path}, row {first + row}: " for row in range(len(table))]
        contents = table.drop_columns([USER] if USER in table.column_names else []).to_pylist()
        requests = [resolver.parse(_plain(row), at, given) for row, at in zip(contents, where, strict=True)]
        yield resolver.resolve(requests, where)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Without what is null; a map comes as pairs."""
    plain = {name: value for name, value in row.items() if value is not None}
    if isinstance(plain.get("at_most"), list):
        plain["at_most"] = dict(plain["at_most"])
    return plain


def _parts(resolver: Resolver, file: HistoryFile, out: Path, given: dict[str, Any], rows: int) -> Path:
    """The folder of the parts, which belongs to these requests and this export."""
    folder = out.with_name(out.name + ".parts")
    stamp = fingerprint(file.fingerprint(), resolver.opened.manifest.model_dump(mode="json"), given, rows)
    known = read_json(folder / "stage.json")
    if known is None:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "stage.json", {"stamp": stamp})
    elif known.get("stamp") != stamp:
        raise UserError(
            f"--out {out}: {folder} holds lists of another file, export or options; delete it, or choose another one"
        )
    return folder


def _answered(engine: Recommender, table: pa.Table, requests: list[Resolved]) -> pa.Table:
    catalog = engine.opened.catalog
    lists = engine.lists(requests)
    columns: dict[str, Any] = {USER: table[USER]} if USER in table.column_names else {}
    columns |= {
        "items": pa.array([catalog.item_ids[items].tolist() for items, _ in lists], _TEXTS),
        "titles": pa.array([catalog.titles[items].tolist() for items, _ in lists], _TEXTS),
        "logprobs": pa.array([values.tolist() for _, values in lists], pa.list_(pa.float32())),
        "skipped": pa.array([one.skipped for one in requests], _TEXTS),
        "cut": pa.array([one.cut for one in requests], pa.int32()),
    }
    return pa.table(columns)


def _schema(file: HistoryFile) -> pa.Schema:
    user = [pa.field(USER, file.schema.field(USER).type)] if USER in file.schema.names else []
    written = {"items": _TEXTS, "titles": _TEXTS, "logprobs": pa.list_(pa.float32()), "skipped": _TEXTS}
    return pa.schema([*user, *(pa.field(*column) for column in written.items()), pa.field("cut", pa.int32())])


def _join(paths: list[Path], schema: pa.Schema, out: Path) -> None:
    """All parts as one file, a part in memory at a time."""
    with whole_file(out) as temporary:
        if out.suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema) as writer:
                for path in paths:
                    writer.write_table(read_table(path).cast(schema))
            return
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for path in paths:
                writer.write_table(read_table(path).cast(schema))


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
