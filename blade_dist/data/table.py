"""Any log and items as tables, with ``data.columns`` saying which column is which."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.columns import every_name, is_rating, resolve
from blade_dist.data.ids import id_text
from blade_dist.data.list_text import as_lists, listed, looks_listed, parsed, values
from blade_dist.data.rawlog import LogColumns, RawLog
from blade_dist.data.remarks import Remarks, shown
from blade_dist.data.tables import Keyed, bad_row, day_first, open_tables, rules_of, stream, whole
from blade_dist.data.text_table import TextTable
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings

_OTHER_SEPARATORS = (",", ";", "|", "/", ">", "\t")


def read_table_log(settings: DataSettings, seed: int, folder: Path) -> RawLog:  # noqa: ARG001
    """The interactions and the items.

    Raises:
        UserError: a missing file or column, a file that is no table, an unreadable item.
    """
    assert settings.path is not None  # checked by Config
    assert settings.items is not None
    remarks = Remarks()
    parts = _log_tables(settings, remarks)
    shape = partial(one_row_each, separator=settings.group_separator) if settings.per_user else one_row
    rules = rules_of(settings)
    if settings.day_first is None:
        # the files are read once more, with remarks of their own: what is counted is counted once
        rules = replace(rules, day_first=cache(lambda: day_first(_log_tables(settings, Remarks()), shape)))
    return RawLog(
        rows=lambda: stream(parts, rules, remarks, shape),
        items=read_items(settings, remarks),
        bad_row=lambda: bad_row(parts, rules, shape),
        remarks=remarks,
    )


def _log_tables(settings: DataSettings, remarks: Remarks) -> list[tuple[Keyed, LogColumns]]:
    assert settings.path is not None
    names = every_name(settings.columns)
    tables = open_tables(settings.path, "data.path", settings, names, remarks, (".inter",), settings.header)
    return [(table, log_columns(settings, table, remarks)) for table in tables]


def log_columns(settings: DataSettings, table: Keyed, remarks: Remarks) -> LogColumns:
    """The columns of a log; UserError where one is missing."""
    given = settings.columns
    if settings.min_rating is not None and given.rating is None and any(map(is_rating, table.names)):
        given = given.model_copy(update={"rating": "rating"})
    found = resolve(
        given, table.names, ("user", "item", "time", "rating"), table.file, remarks, _setting_of(table, "data.header")
    )
    return LogColumns(found["user"], found["item"], found.get("time"), found.get("rating"))


def _setting_of(table: Keyed, header: str) -> str | None:
    """The setting, where the table is text, whose first line may be a row."""
    return header if isinstance(table.table, TextTable) else None


def one_row(part: pa.Table, of: LogColumns) -> pa.Table:
    """The rows as they are.

    Raises:
        ValueError: a row is a user with lists, and not an interaction.
    """
    for name in (of.item, of.user):
        column = part.column(name)
        if is_list(column.type) or (pa.types.is_string(column.type) and _bracketed(column.slice(0, 1000))):
            raise ValueError(
                f"column {name!r} is a list, and a row must be one interaction: write a row per interaction, or set "
                "data.per_user=true where a row is a user with lists of items and times"
            )
    return part


def _bracketed(texts: pa.ChunkedArray) -> bool:
    """Whether nearly all texts are in square brackets, which no id is (a GUID may be in curly ones)."""
    return looks_listed(texts) and bool(pc.all(pc.starts_with(pc.utf8_ltrim_whitespace(texts), "[")).as_py())


def one_row_each(part: pa.Table, of: LogColumns, separator: str) -> pa.Table:
    """Rows of users as rows of interactions; lists of items, and times and ratings as long.

    Raises:
        ValueError: a row whose lists differ in length.
    """
    item = _listed(part.column(of.item), separator)
    lengths = pc.fill_null(pc.list_value_length(item), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    row = pa.array(np.repeat(np.arange(len(part)), lengths))
    columns = {of.user: part.column(of.user).take(row), of.item: pc.list_flatten(item)}
    for name in (of.time, of.rating):
        if name is None:
            continue
        column = part.column(name)
        is_text = pa.types.is_string(column.type)
        several = is_text and (looks_listed(column) or pc.any(pc.match_substring(column, separator)).as_py())
        if not is_list(column.type) and not several:
            columns[name] = column.take(row)  # one for all of the row
            continue
        lists = _listed(column, separator)
        sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        if len(odd := np.flatnonzero(sizes != lengths)):
            raise ValueError(f"column {name!r} has {sizes[odd[0]]} values where {of.item!r} has {lengths[odd[0]]}")
        columns[name] = pc.list_flatten(lists)
    return pa.table(columns)


def _listed(column: pa.ChunkedArray, separator: str) -> pa.Array:
    """A column of lists, or of texts that show lists or are joined by the separator, as lists."""
    if is_list(column.type):
        return column.combine_chunks()
    text = column.cast(pa.string()).combine_chunks()
    return as_lists(text) if looks_listed(text) else pc.split_pattern(text, separator)


def read_items(settings: DataSettings, remarks: Remarks, setting: str = "data.items") -> pa.Table:
    """The items of ``data.items``, see :class:`blade_dist.data.rawlog.RawLog`; ``setting``: what gave the path."""
    assert settings.items is not None
    given = settings.columns
    roles = ("id", "title", "groups", "embedding")
    parts = []
    names, header = every_name(given), settings.items_header
    for table in open_tables(settings.items, setting, settings, names, remarks, (".item",), header):
        found = resolve(given, table.names, roles, table.file, remarks, _setting_of(table, "data.items_header"))
        part = whole(table, list(dict.fromkeys(found.values())))
        named = {"item": _item_ids(part, found["id"], table, remarks), "title": _texts(part, found["title"], table)}
        sequences = getattr(getattr(table.table, "dialect", None), "sequences", ())
        separator = " " if found.get("groups") in sequences else settings.group_separator
        named["groups"] = _groups(part, found.get("groups"), separator, remarks)
        if "embedding" in found:
            named["embedding"] = _vectors(part, found["embedding"], table)
        parts.append(pa.table(named))
    return pa.concat_tables(parts)


def _item_ids(part: pa.Table, name: str, table: Keyed, remarks: Remarks) -> pa.Array:
    try:
        return id_text(part.column(name), "item", remarks)
    except ValueError as error:
        raise UserError(f"{table.file}: column {name!r} (the item id of the items) {error}") from None


def _texts(part: pa.Table, name: str, table: Keyed) -> pa.ChunkedArray:
    column = part.column(name)
    if pa.types.is_nested(column.type):
        raise UserError(f"{table.file}: column {name!r} (data.columns.title) holds no text, but {column.type}")
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        raise UserError(f"{table.file}: column {name!r} (data.columns.title) holds bytes that are not UTF-8") from None


def _groups(part: pa.Table, name: str | None, separator: str, remarks: Remarks) -> pa.Array:
    if name is None:
        return pa.nulls(len(part), pa.list_(pa.string()))
    column = part.column(name)
    if is_list(column.type) and not pa.types.is_nested(column.type.value_type):
        return column.cast(pa.list_(pa.string())).combine_chunks()
    if pa.types.is_map(column.type):
        return pa.array([[name for name, _ in row or []] for row in column.to_pylist()], pa.list_(pa.string()))
    if pa.types.is_nested(column.type):
        return pa.array(map(values, column.to_pylist()), pa.list_(pa.string()))
    text = column.cast(pa.string()).combine_chunks()
    if count := listed(text):
        example = next(one for one in text.to_pylist() if one and one.strip().startswith(tuple('["{(')))
        groups = ", ".join(parsed(example)[:4])
        remarks.repair("groups written as lists", count, f"{shown(example)} read as {groups}")
        return as_lists(text, separator)
    _hint_separator(text, name, separator, remarks)
    return pc.split_pattern(text, separator)


def _hint_separator(text: pa.Array, name: str, separator: str, remarks: Remarks) -> None:
    """Says where no text of the groups has the separator and many have another one."""
    if not len(text) or pc.any(pc.match_substring(text, separator)).as_py():
        return
    text = pc.replace_substring_regex(text, r"&#?\w+;", " ")  # an entity's semicolon parts nothing
    for other in _OTHER_SEPARATORS:
        has = pc.match_substring(text, other).fill_null(False)
        if 5 * (count := pc.sum(has).as_py() or 0) >= len(text):
            example = shown(text[pc.index(has, True).as_py()].as_py())
            remarks.hint(
                f"{count} of {len(text)} texts of column {name!r} have {other!r} in them and none has {separator!r}: "
                f"{example} is one group; 'data.group_separator: {json.dumps(other)}' would part them"
            )
            return


def _vectors(part: pa.Table, name: str, table: Keyed) -> pa.ChunkedArray:
    vectors = part.column(name)
    if not is_list(vectors.type):
        raise UserError(f"{table.file}: column {name!r} (data.columns.embedding) is not a list of floats")
    return vectors.cast(pa.list_(pa.float32()))


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's types of lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
