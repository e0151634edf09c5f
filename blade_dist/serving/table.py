"""Histories in a file of any size to lists in a file: part by part, so that what is stopped goes on where it was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from blade_dist.errors import UserError
from blade_dist.serving.parts import TEXTS, USER, HistoryFile, Job, PartWriter, resolved
from blade_dist.serving.recommend import Recommender
from blade_dist.serving.request import Resolver
from blade_dist.store.arrow import read_table
from blade_dist.store.files import read_json, whole_file, write_json
from blade_dist.store.fingerprint import fingerprint

ROWS = 4096
"""Rows of a part: what is read, written and lost at once."""
Writes = Callable[[Job, Sequence[int]], Iterator[int]]
"""Writes parts of a job; yields how many lists each has, as it is done."""


@dataclass(frozen=True)
class Progress:
    """How far it is."""

    done: int
    rows: int
    per_second: float
    """Lists since the first part of this process; of that part alone since the engine was asked for."""


def with_engine(recommender: Callable[[], Recommender]) -> Writes:
    """One engine, which is started once there is something to write."""

    def write(job: Job, missing: Sequence[int]) -> Iterator[int]:
        writer = PartWriter(recommender(), job)
        yield from map(writer.write, missing)

    return write


def recommend_file(
    write: Writes,
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
        write: see :func:`with_engine`; called once, if there is anything to write.
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
    job = Job(file.path.absolute(), out.with_name(out.name + ".parts").absolute(), given, rows)
    skipped, parts = 0, 0
    for number, table in enumerate(file.parts(rows)):
        skipped += sum(len(one.skipped) for one in resolved(resolver, job, number, table))
        parts += 1
    _check_parts(resolver, file, out, job)
    missing = [number for number in range(parts) if not job.path(number).is_file()]
    if missing:
        _write(write(job, missing), len(file), (parts - len(missing)) * rows, said)
    _join([job.path(number) for number in range(parts)], _schema(file), out)
    shutil.rmtree(job.folder)
    return skipped


def _write(written: Iterator[int], total: int, before: int, said: Callable[[Progress], None]) -> None:
    """``before``: lists that were there, about."""
    began, first, fresh = time.perf_counter(), 0, 0
    for lists in written:
        fresh += lists
        per_second = (fresh - first) / (time.perf_counter() - began)
        if not first:
            began, first = time.perf_counter(), lists
        said(Progress(min(before + fresh, total), total, per_second))


def _check_parts(resolver: Resolver, file: HistoryFile, out: Path, job: Job) -> None:
    """The folder of the parts belongs to these requests and this export."""
    stamp = fingerprint(file.fingerprint(), resolver.opened.manifest.model_dump(mode="json"), job.given, job.rows)
    known = read_json(job.folder / "stage.json")
    if known is None:
        shutil.rmtree(job.folder, ignore_errors=True)
        write_json(job.folder / "stage.json", {"stamp": stamp})
    elif known.get("stamp") != stamp:
        raise UserError(
            f"--out {out}: {job.folder} holds lists of another file, export or options; delete it, or choose another "
            "one"
        )


def _schema(file: HistoryFile) -> pa.Schema:
    user = [pa.field(USER, file.schema.field(USER).type)] if USER in file.schema.names else []
    written = {"items": TEXTS, "titles": TEXTS, "logprobs": pa.list_(pa.float32()), "skipped": TEXTS}
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
