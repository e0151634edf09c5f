"""More of what people bring: numbers and dates as people write them, JSON as stores export it, files in files."""

import datetime as dt
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.data.remarks import Remarks
from blade_dist.data.spelt import plain_numbers
from blade_dist.data.times import microseconds
from tests.cases.wild import ROWS, Outcome, Wild, log, titles, write_csv

NAMES = ["user", "item", "time"]
HALF_PAST = 1_600_000_200 * 10**6
"""2020-09-13 12:30 in UTC."""
AMBIGUOUS = [
    *("01/02/2024", "Sep 2020", "13/09/20", "13.09.20 12:26", "2020-09-13 12:26:40 EST", "2020-09-13 12:26 CET"),
    *("2020-09-13 12:26 Europe/Nowhere", "Europe/Berlin", "[Europe/Berlin]"),
]
"""As dates of two digits for a year, or of a zone that is several."""


@pytest.mark.parametrize(
    "text",
    [
        "Sun Sep 13 12:30:00 +0000 2020",
        "Sun Sep 13 04:30:00 -0800 2020",
        "Sun Sep 13 12:30:00 UTC 2020",
        "Sun, 13 Sep 2020 12:30:00 GMT",
        "September 13, 2020 12:30",
        "13-SEP-2020 12:30:00",
        "13.09.2020 12:30",
        "13.9.2020, 12:30:00",
        "2020-09-13 14:30:00 Europe/Berlin",
        "2020-09-13T08:30[America/New_York]",
        "13.09.2020 18:00 Asia/Kolkata",
        "2020-09-13T14:30:00+02:00[America/New_York]",
        "2020-09-13 14:30:00+02:00 Europe/Berlin",
        "2020-09-13 14:30 GMT+2",
        "2020-09-13 07:30:00 UTC-05:00",
        "Sun Sep 13 2020 14:30:00 GMT+0200 (Central European Summer Time)",
    ],
)
def test_dates_that_can_mean_one_day(text: str) -> None:
    assert microseconds(pa.array([text]))[0].to_pylist() == [HALF_PAST]


@pytest.mark.parametrize("text", [*AMBIGUOUS, "13.13.2020", "mar", "1.2.3"])
def test_dates_that_could_mean_several(text: str) -> None:
    assert microseconds(pa.array(["13.09.2020", text]))[0].to_pylist()[1] is None


def test_numbers_with_commas() -> None:
    remarks, texts = Remarks(), ["4,5", "1,234", "1,600,000,000", "-2,25", "4", "x,5", None]
    assert plain_numbers(pa.array(texts), remarks).to_pylist() == [
        *("4.5", "1,234", "1600000000", "-2.25", "4", "x,5", None)
    ]
    assert remarks.repaired["numbers with a comma or marks between thousands"].count == 3


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.600.000.000", "1600000000"),
        ("1.600,5", "1600.5"),
        ("1 600", "1600"),
        ("1\u202f600\u202f000,25", "1600000.25"),
        ("1'600'000.5", "1600000.5"),
        ("1600000000,125", "1600000000.125"),
        ("0,125", "0.125"),
        ("-1,234,567.8", "-1234567.8"),
    ],
)
def test_marks_between_thousands(text: str, number: str) -> None:
    assert plain_numbers(pa.array([text, "7"]), Remarks()).to_pylist() == [number, "7"]


@pytest.mark.parametrize(
    "text", ["1,234", "1.234", "1 60", "1.60.000", "2020 123", "192.168.1.1", "13.09.2020", "1,2,3"]
)
def test_numbers_that_could_mean_several_stay(text: str) -> None:
    assert plain_numbers(pa.array([text]), Remarks()).to_pylist() == [text]


@pytest.mark.parametrize("write", [lambda t: f"{t},5", lambda t: f"{t:,}"])
def test_times_and_ratings_of_a_spreadsheet(wild: Wild, plain: Outcome, write: Callable[[int], str]) -> None:
    rows = [(user, item, write(time), f"{n % 5},5") for n, (user, item, time) in enumerate(log())]
    write_csv(wild.folder / "log.csv", [*NAMES, "rating"], rows, separator=";")
    made = wild.data("data.min_rating=0.1")
    assert (made.histories, made.log["left"]) == (plain.histories, ROWS)
    assert f"{2 * ROWS} numbers with a comma or marks" in made.said


def test_ids_that_a_spreadsheet_shortened_are_said(wild: Wild) -> None:
    rows = [(f"{1.5 + int(user[1:]) / 100:.2f}E+11", item, time) for user, item, time in log()]
    write_csv(wild.folder / "log.csv", NAMES, rows)
    said = wild.data().said
    assert "note: user ids are numbers that a spreadsheet shortened: several may be one; export the column as" in said
    assert said.count("(as '1.50E+11')") == 1


def test_decimals_are_the_ids_that_they_are_worth(wild: Wild, plain: Outcome) -> None:
    wild.items([(str(n), f"Title {n}", "a") for n in range(24)])
    users, items, times = zip(*log(), strict=True)
    numbers = pa.array([Decimal(item[1:]) for item in items], pa.decimal128(38, 10))
    pq.write_table(pa.table({"user": users, "item": numbers, "time": times}), wild.folder / "log.parquet")
    made = wild.data(wild.path("log.parquet"))
    assert {user: [f"i{item}" for item in row] for user, row in made.histories.items()} == plain.histories
    wild.items([(str(-n), f"Title {n}", "a") for n in range(24)])
    write_csv(wild.folder / "log.csv", NAMES, [(user, f"{-int(item[1:])}.0", time) for user, item, time in log()])
    assert wild.data().log["without_title"] == 0


@pytest.mark.parametrize(("odd", "shown"), [(0, "1970-01-01"), ("9999-12-31", "9999-12-31")])
def test_times_that_stand_for_an_unknown_one_are_said(wild: Wild, odd: int | str, shown: str) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [(u, i, t if n % 50 else odd) for n, (u, i, t) in enumerate(log())])
    made = wild.data()
    assert f"8 times are before 1980 or after 2100, as {shown}, and come first or last in their histories" in made.said
    assert shown in made.line("data: times from")


def _mongo(user: str, item: str, time: int) -> dict[str, Any]:
    wrapped = {"$date": {"$numberLong": str(1000 * time)}}
    return {"_id": {"$oid": "x"}, "user": {"$oid": user}, "item": item, "time": wrapped}


def _mixed(user: str, item: str, time: int) -> dict[str, Any]:
    """Times become fractions, and user ids text, long after the first lines."""
    number = int(user[1:])
    return {"user": number if number < 60 else str(number), "item": item, "time": time + (0.5 if number > 70 else 0)}


def _jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "log.jsonl"


def _array(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "log.json").write_text(json.dumps(rows, indent=1))
    return folder / "log.json"


@pytest.mark.parametrize("store", [_jsonl, _array])
@pytest.mark.parametrize("write", [_mongo, _mixed])
def test_values_of_several_types_in_json(
    wild: Wild, store: Callable[[Path, list[dict[str, Any]]], Path], write: Callable[[str, str, int], dict[str, Any]]
) -> None:
    rows = log(users=80)
    path = store(wild.folder, [write(*row) for row in rows])
    write_csv(wild.folder / "log.csv", NAMES, rows)
    made, plain = wild.data(f"data.path={path}"), wild.data()
    assert {user.lstrip("u"): row for user, row in made.histories.items()} == {
        user.lstrip("u"): row for user, row in plain.histories.items()
    }


def test_objects_in_the_place_of_ids_are_shown(wild: Wild) -> None:
    path = _jsonl(wild.folder, [{"user": {"name": u}, "item": i, "time": t} for u, i, t in log()])
    said = wild.refused(f"data.path={path}")
    assert said == "log.jsonl:1: field 'user': an object, {'name': 'u0'}; name a field of plain values"
    (wild.folder / "log.jsonl").write_text('{"user": "u", "item": "i1", "time": 1}\n[1, 2]\n')
    assert "log.jsonl:2: an object is needed, not list" in wild.refused(f"data.path={path}")


def test_clocks_of_two_places(wild: Wild, plain: Outcome) -> None:
    places = [ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")]

    def write(number: int, time: int) -> str:
        place = places[number % 2]
        return f"{dt.datetime.fromtimestamp(time, place):%Y-%m-%dT%H:%M:%S}[{place.key}]"

    write_csv(wild.folder / "log.csv", NAMES, [(u, i, write(n, t)) for n, (u, i, t) in enumerate(log())])
    assert wild.data().histories == plain.histories


def test_goodreads(wild: Wild, plain: Outcome) -> None:
    rows = [
        {"user_id": u, "book_id": i, "date_added": f"Sun Sep 13 12:{t % 1000:02}:00 -0800 2020"} for u, i, t in log()
    ]
    (wild.folder / "log.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    books = [{"book_id": i, "title": t, "shelves": [{"count": "3", "name": "to-read"}]} for i, t in titles().items()]
    (wild.folder / "books.json").write_text("\n".join(map(json.dumps, books)))
    items = (f"data.items={wild.folder / 'books.json'}", "data.columns.groups=shelves")
    made = wild.data(wild.path("log.json.gz"), *items)
    assert (made.histories, made.bundle.catalog.group_names) == (plain.histories, ["to-read"])


@pytest.mark.parametrize(
    "names",
    [
        ["User ID", "Item ID", "Event Time"],
        ["User-ID", "ISBN", "Time Stamp"],
        ["customer_id", "article_id", "t_dat"],
        ["username", "BusinessId", "created-at"],
    ],
)
def test_names_of_columns_as_others_spell_them(wild: Wild, plain: Outcome, names: list[str]) -> None:
    write_csv(wild.folder / "log.csv", names, log())
    made = wild.data()
    assert made.histories == plain.histories
    assert f"column {names[0]!r} is taken as the user (data.columns.user)" in made.said


def _parquet() -> bytes:
    stored = io.BytesIO()
    pq.write_table(pa.table(dict(zip(NAMES, zip(*log(), strict=True), strict=True))), stored)
    return stored.getvalue()


def _zip(path: Path, name: str, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, text)
    return path


def test_files_in_files(wild: Wild, plain: Outcome) -> None:
    text = (wild.folder / "log.csv").read_text()
    (wild.folder / "log.parquet.gz").write_bytes(gzip.compress(_parquet()))
    _zip(wild.folder / "kaggle" / "log.csv.zip", "log.csv", text)
    for name in ("log.parquet.gz", "kaggle", "lo?.csv", "k*/*.zip"):
        assert wild.data(wild.path(name)).histories == plain.histories, name
    locked = _zip(wild.folder / "locked.zip", "log.csv", text)
    data = bytearray(locked.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + flags] |= 1
    locked.write_bytes(data)
    assert "is encrypted, password required for extraction; unpack it" in wild.refused(wild.path("locked.zip"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!DOCTYPE html><html><body>404</body></html>\n", "log.csv: it is a web page and no table"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "log.csv: it is a pointer of Git LFS"),
    ],
)
def test_what_stands_in_the_place_of_a_file(wild: Wild, text: str, said: str) -> None:
    (wild.folder / "log.csv").write_text(text)
    assert wild.refused().startswith(said)


def test_a_log_without_times_is_read_in_its_order(wild: Wild, plain: Outcome) -> None:
    pairs = [(user, item) for user, item, _ in log()]
    write_csv(wild.folder / "log.csv", NAMES[:2], pairs)
    said = wild.refused()
    assert said.endswith("it has user, item; where its rows stand in the order of time, set data.columns.time=null")
    assert wild.data("data.columns.time=null").histories == plain.histories
    of: dict[str, list[str]] = {}
    for user, item in pairs:
        of.setdefault(user, []).append(item)
    (wild.folder / "log.jsonl").write_text("\n".join(json.dumps({"user": u, "item": i}) for u, i in of.items()))
    settings = ("data.columns.time=null", "data.per_user=true", "data.partition_rows=50")
    assert wild.data(wild.path("log.jsonl"), *settings).histories == plain.histories


def test_a_table_inside_an_archive_is_asked_for_by_its_path(wild: Wild, plain: Outcome) -> None:
    with zipfile.ZipFile(wild.folder / "all.zip", "w") as archive:
        for name in ("log.csv", "items.csv"):
            archive.write(wild.folder / name, f"shop/{name}")
    assert "all.zip/shop/items.csv: no column 'user'" in wild.refused(wild.path("all.zip"))
    items = f"data.items={wild.folder / 'all.zip/shop/items.csv'}"
    assert wild.data(wild.path("all.zip/shop/log.csv"), items).histories == plain.histories
    assert wild.refused(wild.path("all.zip/log.csv")) == "data.path: all.zip/log.csv does not exist"
