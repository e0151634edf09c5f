"""The same log, spelt as many programs spell it: rows, times, ids, groups."""

import datetime as dt
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.data.list_text import parsed
from blade_dist.data.remarks import Remarks
from blade_dist.data.times import microseconds
from blade_dist.data.titles import clean_titles
from tests.cases.wild import ROWS, START, Outcome, Wild, log, titles, write_csv

NAMES = ["user", "item", "time"]


def text(separator: str = ",", quote: str = "", end: str = "\n", head: bool = True) -> str:
    rows = [*([NAMES] if head else []), *log()]
    return "".join(separator.join(f"{quote}{value}{quote}" for value in row) + end for row in rows)


TEXTS = {
    "quotes": text(quote='"'),
    "single quotes": text(quote="'"),
    "single quotes, semicolons": text(";", "'"),
    "Excel": "sep=;\n" + text(";"),
    "remarks": "# exported\n#\n" + text(),
    "blanks after commas": text(", "),
    "old Mac": text(end="\r"),
    "Windows": text(";", '"', "\r\n"),
    "a comma at each end": text(end=",\n"),
    "an index": "".join(f"{n or ''},{line}\n" for n, line in enumerate(text().splitlines())),
    "carets": text("^"),
    "Hive": text("\x01"),
    "blanks": text(" "),
    "two bars": text("||"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_rows_as_text(wild: Wild, plain: Outcome, name: str) -> None:
    (wild.folder / "log.csv").write_bytes(TEXTS[name].encode())
    assert wild.data().histories == plain.histories


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_characters_without_a_mark(wild: Wild, plain: Outcome, encoding: str) -> None:
    (wild.folder / "log.csv").write_bytes(text().encode(encoding))
    assert wild.data().histories == plain.histories


def test_a_separator_is_of_the_file_that_has_it(wild: Wild, plain: Outcome) -> None:
    (wild.folder / "log.csv").write_text(text("~"))  # and the items have commas
    assert wild.data('data.separator="~"').histories == plain.histories


def test_a_first_line_that_names_nothing_is_asked_about(wild: Wild) -> None:
    (wild.folder / "log.csv").write_text(text(head=False))
    assert wild.refused().endswith("is its first line a row? data.header=[...] names the columns then, in order")


def _mixed(folder: Path) -> None:
    pq.write_table(pa.table(dict(zip(NAMES, zip(*log(), strict=True), strict=True))), folder / "a.parquet")
    (folder / "b.csv").write_text(text())


def _delta(folder: Path) -> None:
    rows = pa.table(dict(zip(NAMES, zip(*log(), strict=True), strict=True)))
    for name, part in (("a b.parquet", rows), ("old.parquet", rows.slice(0, 9)), ("back.parquet", rows.slice(0, 0))):
        pq.write_table(part, folder / name)
    (folder / "_delta_log").mkdir()
    first = [{"add": {"path": "old.parquet"}}, {"remove": {"path": "a%20b.parquet"}}, {"protocol": {}}]
    second = [{"remove": {"path": "old.parquet"}}, {"add": {"path": "a%20b.parquet"}}]
    for number, actions in enumerate((first, second)):
        (folder / "_delta_log" / f"{number:020}.json").write_text("\n".join(map(json.dumps, actions)))


def _redshift(folder: Path) -> None:
    (folder / "0000_part_00").write_text(text("|"))
    (folder / "manifest").write_text('{"entries": []}')


@pytest.mark.parametrize(("write", "said"), [(_mixed, "1 table of another kind passed over, as b.csv"), (_delta, "")])
def test_what_lies_beside_the_parts(wild: Wild, plain: Outcome, write: Callable[[Path], None], said: str) -> None:
    (wild.folder / "parts").mkdir()
    write(wild.folder / "parts")
    made = wild.data(wild.path("parts"))
    assert (made.log["read"], made.histories) == (ROWS, plain.histories)
    assert said in made.said


def test_a_manifest_is_no_part(wild: Wild, plain: Outcome) -> None:
    (wild.folder / "parts").mkdir()
    _redshift(wild.folder / "parts")
    assert wild.data(wild.path("parts")).histories == plain.histories


@pytest.mark.parametrize("name", ["log.tar.gz", "log.7z", "log.zip"])
def test_archives_that_are_to_be_unpacked(wild: Wild, name: str) -> None:
    (wild.folder / "log.csv").rename(wild.folder / "log")
    if name == "log.tar.gz":
        with tarfile.open(wild.folder / name, "w:gz") as archive:
            archive.add(wild.folder / "log", "log.csv")
    elif name == "log.zip":
        for made, member in (("inner", "log"), ("log", "inner.zip")):
            with zipfile.ZipFile(wild.folder / f"{made}.zip", "w") as packed:
                packed.write(wild.folder / member, member)
    else:
        (wild.folder / name).write_bytes(b"7z\xbc\xaf\x27\x1c\x00")
    assert "is an archive; unpack it" in wild.refused(wild.path(name))


@pytest.mark.parametrize("orient", ["columns", "split", "data"])
def test_one_json_object_that_holds_all_rows(wild: Wild, orient: str) -> None:
    rows = [dict(zip(NAMES, row, strict=True)) for row in log()]
    whole: Any = {"columns": {name: {"0": 1} for name in NAMES}, "split": {"data": [[1]]}, "data": {"data": rows}}
    (wild.folder / "log.json").write_text(json.dumps(whole[orient]))
    assert "one JSON object holds all rows; write an object a line" in wild.refused(wild.path("log.json"))


TIMES = [
    ("2020-09-13T12:26:40", "%Y%m%dT%H%M%SZ"),
    ("2020-09-13T12:26:40", "%Y%m%d %H%M%S"),
    ("2020-09-13T12:26:40", "%Y%m%d%H%M%S"),
    ("2020-09-13T12:26:40", "%Y-%m-%dT%H:%M:%S.000+0000"),
    ("2020-09-13T12:26:40", "%Y-%m-%dT%H:%M:%SZ[UTC]"),
    ("2020-09-13T12:26:40", "%Y-%m-%dT%H:%M:%S[UTC]"),
    ("2020-09-13T00:00:00", "%Y%m%d"),
    ("2020-09-03T01:02:03", "2020-9-3 1:2:3"),
    ("2020-09-03T01:02:03.250", "2020/9/3 1:02:03.25"),
    ("2020-01-31T00:00:00", "2020-1-31"),
]


@pytest.mark.parametrize(("time", "form"), TIMES)
def test_forms_of_a_time(time: str, form: str) -> None:
    given = dt.datetime.fromisoformat(time + "+00:00")
    times, _ = microseconds(pa.array([given.strftime(form)]))
    assert times.to_pylist() == [round(given.timestamp() * 1e6)]


def test_numbers_are_dates_only_where_all_of_them_are(wild: Wild, plain: Outcome) -> None:
    ids = pa.array([20_240_229, 20_240_230], pa.int64())  # 30 February
    assert microseconds(ids)[0].to_pylist() == [20_240_229_000_000, 20_240_230_000_000]
    assert microseconds(pa.array([None, 20_240_229]))[0].to_pylist() == [None, 1_709_164_800_000_000]
    rows = [(u, i, dt.datetime.fromtimestamp(t, dt.UTC).strftime("%Y%m%d%H%M%S")) for u, i, t in log()]
    write_csv(wild.folder / "log.csv", NAMES, rows)
    made = wild.data()
    assert made.histories == plain.histories
    assert made.bundle.card["times"]["first"] == "2020-09-13"


def test_a_time_of_no_known_form_is_refused_with_what_would_be_right(wild: Wild) -> None:
    for form in ("%d/%m/%y %H:%M", "%H:%M %d/%m/%Y", "%d.%m.%y %H:%M"):
        write_csv(
            wild.folder / "log.csv", NAMES, [("u", "i1", dt.datetime.fromtimestamp(START, dt.UTC).strftime(form))]
        )
        said = wild.refused()
        assert "is no time: a number (larger is later) or 2024-01-31T10:00:00Z" in said
        assert said.endswith("data.bad_rows=drop leaves such rows out")


SPELT: list[tuple[Callable[[str], str], Callable[[str], str]]] = [
    (lambda i: f"'{i}'", lambda i: i),
    (lambda i: "{0-" + i + "}", lambda i: f"0-{i}"),
    (lambda i: f"Cafe\u0301 {i}", lambda i: f"Caf\u00e9 {i}"),
    (lambda i: f"\uff12 {i}", lambda i: f"2 {i}"),
    (lambda i: f"a  b{i}", lambda i: f"a b{i}"),
]


@pytest.mark.parametrize(("in_log", "in_items"), SPELT)
def test_item_ids_that_are_spelt_in_two_ways(
    wild: Wild, plain: Outcome, in_log: Callable[[str], str], in_items: Callable[[str], str]
) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [(user, in_log(item), time) for user, item, time in log()])
    wild.items([(in_items(item), title, "a") for item, title in titles().items()])
    made = wild.data()
    assert {user: [in_items(item) for item in row] for user, row in plain.histories.items()} == made.histories
    line = made.line("item ids joined by other zeros, case or marks")
    spelt, found = line.rpartition(": ")[2].split(" in the log is item ")
    assert spelt != found


def test_ids_of_bytes_are_text_uuids_or_digits(wild: Wild, plain: Outcome) -> None:
    users, items, times = zip(*log(), strict=True)
    for kind, write in (("text", str.encode), ("uuid", lambda i: b"\xff" * 15 + bytes([int(i[1:])]))):
        stored = pa.binary() if kind == "text" else pa.binary(16)
        named = {"item": pa.array(map(write, titles()), stored), "title": list(titles().values()), "genre": ["a"] * 24}
        pq.write_table(pa.table(named), wild.folder / "items.parquet")
        rows = {"user": users, "item": pa.array(map(write, items), stored), "time": times}
        pq.write_table(pa.table(rows), wild.folder / "log.parquet")
        made = wild.data(wild.path("log.parquet"), f"data.items={wild.folder / 'items.parquet'}")
        assert made.log["left"] == ROWS
        first = made.bundle.catalog.item_ids[0]
        assert first == {"text": "i0", "uuid": "ffffffff-ffff-ffff-ffff-ffffffffff00"}[kind]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (pa.array([2.0**53 + 2]), "holds floats above 2**53, where several ids are one"),
        (pa.array([{"$oid": "7"}]), "holds objects, as [{'$oid': '7'}]; name a column of plain ids"),
    ],
)
def test_ids_that_are_none(wild: Wild, ids: pa.Array, said: str) -> None:
    pq.write_table(pa.table({"user": ids, "item": ["i1"], "time": [1]}), wild.folder / "log.parquet")
    assert f"log.parquet: row 1: column 'user' {said}" in wild.refused(wild.path("log.parquet"))


def test_items_that_are_called_otherwise_are_shown_beside_the_log_s(wild: Wild) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [(user, f"item_{item}", time) for user, item, time in log()])
    said = wild.refused()
    assert f"of {ROWS} interactions these are left out: items without a title {ROWS}; the log has item 'item_i" in said
    assert said.endswith("and the items have 'i0'")


def test_views_of_newer_parquet_files(wild: Wild, plain: Outcome) -> None:
    users, items, times = zip(*log(), strict=True)
    text_times = pa.array(map(str, times)).cast(pa.string_view())
    columns = [pa.array(part).cast(pa.string_view()) for part in (users, items)]
    pq.write_table(pa.table([*columns, text_times], names=NAMES), wild.folder / "log.parquet")
    assert wild.data(wild.path("log.parquet")).histories == plain.histories


PAIR = ["Crime", "Drama"]
GROUPS = [
    pa.array([[{"id": 1, "name": one} for one in PAIR]] * 24),
    pa.array([[PAIR]] * 24),
    pa.array([PAIR] * 24, pa.list_view(pa.string())),
    pa.array([[(one, 1) for one in PAIR]] * 24, pa.map_(pa.string(), pa.int64())),
    pa.array([json.dumps(json.dumps(PAIR))] * 24),
    pa.array([str(PAIR[:1]) if n % 2 else "|".join(PAIR) for n in range(24)]),
]


@pytest.mark.parametrize("groups", GROUPS, ids=lambda groups: str(groups.type))
def test_groups_of_any_type(wild: Wild, groups: pa.Array) -> None:
    table = pa.table({"item": list(titles()), "title": list(titles().values()), "genre": groups})
    pq.write_table(table, wild.folder / "items.parquet")
    made = wild.data(f"data.items={wild.folder / 'items.parquet'}")
    assert made.bundle.catalog.group_names == PAIR


def test_an_entity_s_semicolon_parts_no_groups(wild: Wild) -> None:
    wild.items([(f"i{n}", f"Title {n}", "Sci-Fi &amp; Fantasy") for n in range(24)])
    made = wild.data()
    assert made.bundle.catalog.group_names == ["Sci-Fi & Fantasy"]
    assert "group_separator" not in made.said


def test_a_text_beside_lists_is_parted_by_the_separator() -> None:
    assert parsed("Crime|Drama", "|") == parsed("['Crime', 'Drama']", "|") == PAIR
    assert parsed("Crime|Drama") == ["Crime|Drama"]


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("Caf\\u00e9 \\ud83c\\udf89", "Caf\u00e9 \U0001f389"),
        ("<![CDATA[Mug & more]]>", "Mug & more"),
        ("Tom &amp;amp;amp;amp; Jerry", "Tom & Jerry"),
        ("C:\\users", "C:\\users"),
    ],
)
def test_more_titles(title: str, clean: str) -> None:
    assert clean_titles(pa.array([title]), Remarks()).to_pylist() == [clean]


@pytest.mark.parametrize("title", ["Caf\u00c3\u00a9", "Mug\ufffd", "It\u00e2\u20ac\u2122s"])
def test_titles_that_lost_their_letters_are_said_and_stay(title: str) -> None:
    remarks = Remarks()
    assert clean_titles(pa.array([title, "\u00c3gua", "\u00c2me"]), remarks).to_pylist()[0] == title
    assert [line.partition(" titles")[0] for line in remarks.hints] == ["1"]
