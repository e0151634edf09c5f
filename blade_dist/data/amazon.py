"""Amazon Reviews 2023: reviews and meta as JSON lines, plain or compressed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.json as arrow_json
import ray.data
from ray.data.datasource import FileBasedDatasource

from blade_dist.data.rawlog import LogColumns, RawLog, first_bad, normalise, require_columns, require_file
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings

_COLUMNS = LogColumns("user_id", "parent_asin", "timestamp", "rating")
_REVIEW = pa.schema(
    [("user_id", pa.string()), ("parent_asin", pa.string()), ("timestamp", pa.int64()), ("rating", pa.float64())]
)
_META = pa.schema(
    [
        ("parent_asin", pa.string()),
        ("title", pa.string()),
        ("main_category", pa.string()),
        ("categories", pa.list_(pa.string())),
    ]
)
_BLOCK = 1 << 24
"""Bytes that are parsed at once; a line must fit."""


class JsonLines(FileBasedDatasource):
    """JSON lines in blocks, with a fixed schema; the reader of Ray Data takes a whole file into memory."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        super().__init__(str(path))
        self._fields = schema

    def _read_stream(self, f: pa.NativeFile, path: str) -> Iterator[pa.Table]:  # noqa: ARG002
        with arrow_json.open_json(f, arrow_json.ReadOptions(block_size=_BLOCK), _parse(self._fields)) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])


def read_amazon(settings: DataSettings, seed: int, folder: Path) -> RawLog:  # noqa: ARG001
    """The reviews, and the items with their categories below the root (or else the main one) as groups.

    Raises:
        UserError: a missing file or field, an unreadable item.
    """
    assert settings.path is not None  # checked by Config
    assert settings.items is not None
    for path, setting, names in (
        (settings.path, "data.path", _COLUMNS.names()),
        (settings.items, "data.items", ["parent_asin", "title"]),
    ):
        require_file(path, setting)
        require_columns(path, _first_keys(path), {f"data.source amazon: {name}": name for name in names})
    rows = ray.data.read_datasource(JsonLines(settings.path, _REVIEW))
    return RawLog(
        rows=rows.map_batches(partial(normalise, columns=_COLUMNS), batch_format="pyarrow", batch_size=None),
        items=_read_meta(settings.items),
        bad_row=partial(_bad_review, settings.path),
    )


def _parse(schema: pa.Schema) -> arrow_json.ParseOptions:
    return arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")


def _read_meta(path: Path) -> pa.Table:
    try:
        with arrow_json.open_json(
            pa.input_stream(str(path)), arrow_json.ReadOptions(block_size=_BLOCK), _parse(_META)
        ) as reader:
            meta = pa.Table.from_batches(reader, reader.schema)
    except pa.ArrowInvalid as error:
        raise UserError(
            first_bad(_lines(path), lambda lines: _read_lines(lines, _META)) or f"{path}: {error}"
        ) from None
    groups = [
        listed[1:] if listed and len(listed) > 1 else [main] if main else []
        for listed, main in zip(
            meta.column("categories").to_pylist(), meta.column("main_category").to_pylist(), strict=True
        )
    ]
    return pa.table(
        {
            "item": meta.column("parent_asin"),
            "title": meta.column("title"),
            "groups": pa.array(groups, pa.list_(pa.string())),
        }
    )


def _first_keys(path: Path) -> list[str]:
    for place, line in _lines(path):
        try:
            return list(json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{place}: not a JSON object: {error}") from None
    raise UserError(f"{path}: the file is empty; it must hold one JSON object a line")


def _bad_review(path: Path) -> str | None:
    return first_bad(_lines(path), lambda lines: normalise(_read_lines(lines, _REVIEW), _COLUMNS))


def _read_lines(lines: list[bytes], schema: pa.Schema) -> pa.Table:
    return arrow_json.read_json(BytesIO(b"\n".join(lines)), parse_options=_parse(schema))


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(``file:line``, text) of every line that isn't blank."""
    with pa.input_stream(str(path)) as stream:
        for number, line in enumerate(_buffered(stream), start=1):
            if line.strip():
                yield f"{path}:{number}", line


def _buffered(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest
