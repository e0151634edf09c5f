"""Values that no program should write, and some do: numbers beyond 64 bits, halves of letters, names among the rows."""

from __future__ import annotations

import errno
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.data.damaged import readable
from blade_dist.data.times import microseconds
from blade_dist.errors import UserError
from tests.cases.wild import ROWS, Outcome, Wild, log, titles, write_csv

NAMES = ["user", "item", "time"]


@pytest.mark.parametrize("more", [[], ["data.bad_rows=drop"]])
def test_names_of_columns_among_the_rows_are_counted(wild: Wild, plain: Outcome, more: list[str]) -> None:
    """Of files that were put behind each other."""
    rows = log()
    write_csv(wild.folder / "log.csv", NAMES, [*rows[:100], NAMES, *rows[100:200], NAMES, *rows[200:]])
    data = wild.data(*more)
    assert data.histories == plain.histories
    assert (data.log["read"], data.log["left"]) == (ROWS + 2, ROWS)
    assert data.bundle.card["remarks"]["dropped"]["the first line again"]["count"] == 2


def test_a_user_may_be_called_as_a_column(wild: Wild) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [("user" if u == "u3" else u, i, t) for u, i, t in log()])
    assert wild.data().log["left"] == ROWS


def json_log(wild: Wild, change: dict[int, dict[str, object]]) -> str:
    rows = [
        dict(zip(NAMES, row, strict=True)) | change.get(place, {}) | {"user": 2**64 - 1 - int(row[0][1:])}
        for place, row in enumerate(log())
    ]
    (wild.folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return wild.path("log.jsonl")


def test_ids_of_64_bits_without_a_sign_are_ids(wild: Wild) -> None:
    users = set(wild.data(json_log(wild, {})).histories)
    assert users == {str(2**64 - 1 - user) for user in range(30)}


def test_a_number_that_no_64_bits_hold_is_no_time(wild: Wild) -> None:
    said = wild.refused(json_log(wild, {50: {"time": 10**400}}))
    assert said.startswith("log.jsonl:51: column 'time': ")
    assert "is no time" in said


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.date32()])
def test_a_date_beyond_what_microseconds_hold_is_no_time(wild: Wild, kind: pa.DataType) -> None:
    wide = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    far = 2**31 - 1 if pa.types.is_date32(kind) else 2**62
    times, _ = microseconds(pa.array([1, far, -far, None], wide).cast(kind))
    assert times.is_null().to_pylist() == [False, True, True, True]
    if kind == pa.timestamp("s"):  # Parquet has none
        return
    column = pa.array([far if place == 3 else 5 + place for place in range(ROWS)], wide).cast(kind)
    pq.write_table(
        pa.table([*map(pa.array, list(zip(*log(), strict=True))[:2]), column], NAMES), wild.folder / "l.parquet"
    )
    assert wild.refused(wild.path("l.parquet")).startswith("l.parquet: row 4: column 'time': ")


def test_half_a_letter_in_json_is_one_that_was_lost(wild: Wild) -> None:
    rows = [json.dumps({"item": i, "title": t + "\ud83d" * (i == "i3"), "genre": "a"}) for i, t in titles().items()]
    (wild.folder / "items.jsonl").write_text("\n".join(rows))
    data = wild.data(f"data.items={wild.folder / 'items.jsonl'}")
    assert data.titles["i3"] == "Title 3\ufffd"
    assert "Title 3" in data.line("wrong encoding")


@pytest.mark.parametrize("name", ["idna", "undefined", "rot13", "no such thing"])
def test_an_encoding_must_be_one_of_text(wild: Wild, name: str) -> None:
    assert "no encoding of that name" in wild.refused(f"data.encoding={name}")


@pytest.mark.parametrize("setting", ["data.path", "data.items"])
def test_what_can_be_read_only_once_is_no_file(wild: Wild, setting: str) -> None:
    os.mkfifo(wild.folder / "rows.csv")
    assert wild.refused(f"{setting}={wild.folder / 'rows.csv'}") == (
        f"{setting}: rows.csv is a pipe, a socket or a device; write what comes from it to a file first"
    )


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_an_error_of_the_system_is_none_of_the_file(number: int) -> None:
    with pytest.raises(OSError, match="system"), readable("log.csv"):
        raise OSError(number, "system")
    with pytest.raises(UserError, match="is it whole"), readable("log.csv"):
        raise OSError(errno.EINVAL, "inflate")
