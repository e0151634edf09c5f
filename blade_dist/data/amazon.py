"""Amazon's reviews of 2014, 2018 and 2023: JSON lines, or the tables of ratings alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from blade_dist.data.damaged import readable
from blade_dist.data.dialect import Dialect, sniff
from blade_dist.data.found import DataFile, find, kind_of
from blade_dist.data.ids import id_text
from blade_dist.data.json_table import JsonTable
from blade_dist.data.rawlog import LogColumns, RawLog, require_columns
from blade_dist.data.remarks import Remarks
from blade_dist.data.tables import Keyed, Table, bad_row, open_table, rules_of, stream, whole
from blade_dist.data.text_table import TextTable
from blade_dist.settings import DataSettings

_2023 = LogColumns("user_id", "parent_asin", "timestamp", "rating")
_2014 = LogColumns("reviewerID", "asin", "unixReviewTime", "overall")
"""And 2018."""
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_REVIEW = pa.schema(
    [
        *((name, _TEXT) for name in ("user_id", "parent_asin", "reviewerID", "asin")),
        *(
            ("timestamp", pa.int64()),
            ("unixReviewTime", pa.int64()),
            ("rating", pa.float64()),
            ("overall", pa.float64()),
        ),
    ]
)
_META = pa.schema(
    [
        *((name, _TEXT) for name in ("parent_asin", "asin", "title", "main_category", "main_cat")),
        ("category", _TEXTS),
    ]
)


def read_amazon(settings: DataSettings, seed: int, folder: Path) -> RawLog:  # noqa: ARG001
    """The reviews, and the items with their categories below the root (or else the main one) as groups.

    Raises:
        UserError: a missing file or field, an unreadable item.
    """
    assert settings.path is not None  # checked by Config
    assert settings.items is not None
    remarks, rules = Remarks(), rules_of(settings)
    log = [_reviews(file, settings, remarks) for file in find(settings.path, "data.path", remarks)]
    items = [_read_meta(file, settings, remarks) for file in find(settings.items, "data.items", remarks)]
    return RawLog(
        rows=lambda: stream(log, rules, remarks),
        items=pa.concat_tables(items),
        bad_row=lambda: bad_row(log, rules),
        remarks=remarks,
    )


def _reviews(file: DataFile, settings: DataSettings, remarks: Remarks) -> tuple[Keyed, LogColumns]:
    with readable(file):
        kind = kind_of(file)
        table: Table
        if kind == "json":
            table = JsonTable(file, _REVIEW)
        elif kind == "text" and (names := _ratings_only(file)):
            table = TextTable(file, Dialect(",", names, head=0), remarks if settings.bad_rows == "drop" else None)
        else:
            table = open_table(file, settings, set(_2023.names()), remarks)
    columns = _2014 if _2014.user in table.names else _2023
    if columns is _2023 and _2023.item not in table.names and "asin" in table.names:
        columns = LogColumns("user_id", "asin", "timestamp", "rating")
    require_columns(file, table.names, {f"data.source amazon: {name}": name for name in columns.names()})
    return Keyed(table), columns


def _ratings_only(file: DataFile) -> tuple[str, ...] | None:
    """Names for a file without a first line of them: 2014 has the user first, 2018 the item, of ten characters."""
    dialect = sniff(file, set(), ",", "utf-8")
    first = dialect.names
    if (
        dialect.separator != ","
        or len(first) != 4
        or not first[2].replace(".", "").isdigit()
        or not first[3].split(".")[0].isdigit()
    ):
        return None
    rows = [
        line.split(",") for line in file.head(1 << 16).decode(errors="replace").splitlines()[:-1] or [",".join(first)]
    ]
    item_first = all(len(row[0]) == 10 for row in rows) and not all(len(row[1]) == 10 for row in rows)
    return ("parent_asin", "user_id", *_REST) if item_first else ("user_id", "parent_asin", *_REST)


_REST = ("rating", "timestamp")


def _read_meta(file: DataFile, settings: DataSettings, remarks: Remarks) -> pa.Table:
    with readable(file):
        table = (
            JsonTable(file, _META) if kind_of(file) == "json" else open_table(file, settings, set(_META.names), remarks)
        )
    key = "parent_asin" if "parent_asin" in table.names else "asin"
    require_columns(file, table.names, {f"data.source amazon: {name}": name for name in (key, "title")})
    some = [name for name in ("main_category", "main_cat", "categories", "category") if name in table.names]
    meta = whole(Keyed(table), [key, "title", *some])
    groups = [_below_root(row) for row in meta.select(some).to_pylist()] if some else [[]] * len(meta)
    return pa.table(
        {
            "item": id_text(meta.column(key), "item", remarks),
            "title": meta.column("title").cast(pa.string()),
            "groups": pa.array(groups, _TEXTS),
        }
    )


def _below_root(row: dict[str, Any]) -> list[str]:
    """2014 has a list of such paths, 2018 calls it ``category``."""
    paths = row.get("categories") or row.get("category") or []
    paths = [paths] if isinstance(paths, str) else paths
    nested = [path for path in paths if isinstance(path, list)] or [paths]
    names = list(dict.fromkeys(name for path in nested for name in path[1:] if name))
    main = row.get("main_category") or row.get("main_cat")
    return names or ([main] if main else [])
