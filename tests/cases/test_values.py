"""Values that are silently wrong elsewhere: ids, times, titles, groups. Repaired or counted, and said."""

import csv
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.data.ids import ItemIndex, id_text
from blade_dist.data.list_text import parsed
from blade_dist.data.remarks import Remarks
from blade_dist.data.times import microseconds
from blade_dist.data.titles import clean_titles, visible
from tests.cases.wild import ROWS, START, Outcome, Wild, log, write_csv

NAMES = ["user", "item", "time"]


@pytest.mark.parametrize("word", ["NA", "\\N", "None", "nan", "NULL"])
def test_a_null_word_is_no_user(wild: Wild, plain: Outcome, word: str) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [*log(), *((word, f"i{n % 12}", START + n) for n in range(100))])
    made = wild.data()
    assert made.log["read"] == ROWS + 100
    assert made.bundle.card["remarks"]["dropped"] == {
        "user is a null word": {"count": 100, "example": f"user {word!a}"}
    }
    assert made.histories == plain.histories
    assert "null word" in made.said
    assert wild.data("data.null_words=[]").log["left"] > ROWS


@pytest.mark.parametrize("row", [",i1,1600000000", "u1,,1600000000", "u1,i1,", "u1,i1,soon"])
def test_a_row_without_a_value_is_refused_or_left_out(wild: Wild, row: str) -> None:
    with (wild.folder / "log.csv").open("a") as file:
        file.write(row + "\n")
    assert wild.refused().startswith(f"log.csv:{ROWS + 2}: column ")
    assert wild.data("data.bad_rows=drop").log["unreadable"] == 1


def test_typed_nulls_are_refused_or_left_out(wild: Wild) -> None:
    columns = {name: list(column) for name, column in zip(NAMES, zip(*log(), strict=True), strict=True)}
    columns["user"][4] = None
    pq.write_table(pa.table(columns), wild.folder / "log.parquet")
    assert wild.refused(wild.path("log.parquet")) == (
        "log.parquet: row 5: column 'user' is empty; data.bad_rows=drop leaves such rows out"
    )
    assert wild.data(wild.path("log.parquet"), "data.bad_rows=drop").log["unreadable"] == 1


@pytest.mark.parametrize(
    ("spell", "rule"),
    [
        (lambda item: f" {item[1:]} ", "item ids with blanks or .0"),
        (lambda item: f"{item[1:]}.0", "item ids with blanks or .0"),
        (lambda item: f"000{item[1:]}", "item ids joined by other zeros, case or marks"),
        (lambda item: f"\ufeff{item[1:]}\u200b", "item ids with blanks or .0"),
    ],
)
def test_item_ids_that_the_files_spell_differently(
    wild: Wild, plain: Outcome, spell: Callable[[str], str], rule: str
) -> None:
    wild.items([(f"{n}", f"Title {n}", "a") for n in range(24)])
    write_csv(wild.folder / "log.csv", NAMES, [(user, spell(item), time) for user, item, time in log()])
    made = wild.data()
    assert made.log["without_title"] == 0
    assert {user: [f"i{item}" for item in row] for user, row in made.histories.items()} == plain.histories
    assert rule in made.said


def test_upper_case_and_floats_are_joined_too(wild: Wild) -> None:
    wild.items([(f"B0{n:02}x", f"Title {n}", "a") for n in range(24)])
    write_csv(wild.folder / "log.csv", NAMES, [(user, f"b0{int(item[1:]):02}X", time) for user, item, time in log()])
    assert wild.data().log["without_title"] == 0
    wild.items([(str(n), f"Title {n}", "a") for n in range(24)])
    users, items, times = zip(*log(), strict=True)
    floats = {"user": users, "item": [float(item[1:]) for item in items], "time": times}
    pq.write_table(pa.table(floats), wild.folder / "log.parquet")
    assert wild.data(wild.path("log.parquet")).log["without_title"] == 0


def test_ids_that_would_be_two_items_stay_unknown() -> None:
    index, remarks = ItemIndex(pa.array(["7", "07", "x"])), Remarks()
    assert index.rows(pa.array(["7", "07", "007", "X", None]), remarks).to_pylist() == [0, 1, None, 2, None]
    assert remarks.repaired["item ids joined by other zeros, case or marks"].example == "'X' in the log is item 'x'"


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), max_size=20))
def test_whole_numbers_are_the_same_ids_however_they_are_typed(numbers: list[int | None]) -> None:
    made = [id_text(pa.array(numbers, kind), "item", Remarks()) for kind in (pa.int64(), pa.float64())]
    assert made[0].equals(made[1])


UTC = dt.UTC


@pytest.mark.parametrize(
    "write",
    [
        lambda t: f"{t}.0",
        lambda t: f"{t:.9e}",
        lambda t: f"{t}.25",
        lambda t: str(t * 1000),
        lambda t: str(t * 10**6),
        lambda t: str(t * 10**9),
        lambda t: dt.datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        lambda t: dt.datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        lambda t: dt.datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S.123456 UTC"),
        lambda t: dt.datetime.fromtimestamp(t, dt.timezone(dt.timedelta(hours=5, minutes=30))).isoformat(),
        lambda t: dt.datetime.fromtimestamp(t, UTC).strftime("%Y/%m/%d %H:%M:%S"),
    ],
)
def test_times_as_text(wild: Wild, plain: Outcome, write: Callable[[int], str]) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [(user, item, write(time)) for user, item, time in log()])
    made = wild.data()
    assert made.histories == plain.histories
    assert made.bundle.card["times"]["first"] == "2020-09-13"


def test_dates_keep_the_order_of_the_file_within_a_day(wild: Wild, plain: Outcome) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [(user, item, "2020-09-13") for user, item, _ in log()])
    made = wild.data()
    assert made.histories == plain.histories
    assert "100% of neighbours in a history have the same time" in made.said


def test_seconds_and_milliseconds_in_one_column(wild: Wild, plain: Outcome) -> None:
    rows = [(user, item, time * (1000 if n % 2 else 1)) for n, (user, item, time) in enumerate(log())]
    write_csv(wild.folder / "log.csv", NAMES, rows)
    made = wild.data()
    assert made.histories == plain.histories
    assert f"{ROWS // 2} times in another unit than most" in made.said


@pytest.mark.parametrize("units", [("ms", "us"), ("s", "ns"), ("us", None), ("date", "text")])
def test_parts_with_times_of_other_types(wild: Wild, plain: Outcome, units: tuple[str | None, str | None]) -> None:
    (wild.folder / "parts").mkdir()
    for number, unit in enumerate(units):
        users, items, times = zip(*log()[number::2], strict=True)
        stamps: Any = pa.array(times, pa.int64())
        if unit == "text":
            stamps = [dt.datetime.fromtimestamp(t, UTC).isoformat() for t in times]
        elif unit is not None and unit != "date":
            stamps = stamps.cast(pa.timestamp("s")).cast(pa.timestamp(unit, "UTC" if unit == "ns" else None))
        table = pa.table({"user": users, "item": items, "time": stamps})
        pq.write_table(table, wild.folder / "parts" / f"{number}.parquet")
    assert wild.data(wild.path("parts")).histories == plain.histories


@given(st.lists(st.integers(0, 10**11 - 1)))
def test_numbers_of_one_unit_keep_their_order(numbers: list[int]) -> None:
    times, _ = microseconds(pa.array(numbers, pa.int64()))
    assert np.argsort(times.to_numpy(), kind="stable").tolist() == np.argsort(numbers, kind="stable").tolist()
    assert microseconds(pa.array([str(n) for n in numbers], pa.string()))[0].equals(times)


@pytest.mark.parametrize("text", ["soon", "31/01/2024", "2024-13-01", "12:30", "", "1e999"])
def test_what_is_no_time(text: str) -> None:
    times, _ = microseconds(pa.array(["1600000000", text]))
    assert times.to_pylist() == [1600000000 * 10**6, None]


TITLES = [
    ("Tom &amp; Jerry", "Tom & Jerry"),
    ("Caf&eacute; &amp;amp; Bar", "Café & Bar"),
    ('<span class="a-size-medium">Mug</span>', "Mug"),
    ("Red<br/>Blue<!-- x --> <p>Green</p>", "Red Blue Green"),
    ("<b>M</b>ug", "Mug"),
    ("Bag<script>var x = 1;</script>", "Bag"),
    ('The \\"Best\\" of', 'The "Best" of'),
    ("A\u00ad\u200bB\ufeff  C\x07", "AB C"),
    ("\u200b", None),
    ("\u00a0\u2800", None),
    ("", None),
    ("Party \U0001f389", "Party \U0001f389"),
    ("<sep>", "<sep>"),
    ("I <3 you & R&D;", "I <3 you & R&D;"),
    ("a < b > c", "a < b > c"),
]


@pytest.mark.parametrize(("title", "clean"), TITLES)
def test_a_title_is_what_a_reader_sees(title: str, clean: str | None) -> None:
    assert clean_titles(pa.array([title]), Remarks()).to_pylist() == [clean]


@given(st.text(st.characters(codec="utf-8")))
def test_visible_text_is_stable(text: str) -> None:
    assert visible(visible(text)) == visible(text)


def test_repaired_titles_are_counted_with_an_example(wild: Wild) -> None:
    new = {
        "i1": "Tom &amp; Jerry",
        "i2": "Caf&eacute;",
        "i3": "<i>Mug</i>",
        "i4": "\u200b",
        "i6": "<sep>",
        "i7": "<eos>",
    }
    wild.items([(f"i{n}", new.get(f"i{n}", f"Title {n}"), "a") for n in range(24)])
    for kind in ("title", "semantic_id"):
        made = wild.data(f"codec.kind={kind}")
        assert made.line("titles with HTML").endswith("3 titles with HTML: 'Tom &amp; Jerry' read as 'Tom & Jerry'")
        assert "1 titles with invisible characters: '\\u200b' read as no title" in made.said
        assert (made.titles["i2"], made.titles["i6"]) == ("Café", "<sep>")
        assert made.bundle.card["log"]["items_without_title"] == 1


def test_a_null_word_is_a_title_only_once() -> None:
    assert clean_titles(pa.array(["None", "Up"]), Remarks()).to_pylist() == ["None", "Up"]
    assert clean_titles(pa.array(["nan", "Up", "nan"]), Remarks()).to_pylist() == [None, "Up", None]


LISTS = [
    ("['Crime', 'Drama']", ["Crime", "Drama"]),
    ('["Crime", "Drama"]', ["Crime", "Drama"]),
    ("['Crime' 'Drama']", ["Crime", "Drama"]),
    ("[Crime, Drama]", ["Crime", "Drama"]),
    ("{Crime,Drama}", ["Crime", "Drama"]),
    ("('Crime', \"Children's\")", ["Crime", "Children's"]),
    ("[{'id': 16, 'name': 'Animation'}, {'id': 35, 'name': 'Comedy'}]", ["Animation", "Comedy"]),
    ("[['Crime'], ['Drama']]", ["Crime", "Drama"]),
    ("[]", []),
    ("Crime", ["Crime"]),
]


@pytest.mark.parametrize(("text", "values"), LISTS)
def test_lists_as_text(text: str, values: list[str]) -> None:
    assert parsed(text) == values


@pytest.mark.parametrize("write", [str, lambda row: str(row).replace("'", '"'), lambda row: "{" + ",".join(row) + "}"])
def test_groups_that_are_lists_as_text(wild: Wild, write: Callable[[list[str]], str]) -> None:
    rows = [["Crime", "Drama"], ["Drama"], ["Comedy", "Crime"], ["Comedy"]]
    wild.items([(f"i{n}", f"Title {n}", write(rows[n % 4])) for n in range(24)])
    made = wild.data()
    assert made.bundle.catalog.group_names == ["Comedy", "Crime", "Drama"]
    assert "24 groups written as lists" in made.said


def test_another_separator_of_groups_is_said(wild: Wild) -> None:
    wild.items([(f"i{n}", f"Title {n}", "Crime, Drama" if n % 2 else "Comedy") for n in range(24)])
    assert "'data.group_separator: \",\"' would part them" in wild.data().said
    assert wild.data('data.group_separator=","').bundle.catalog.group_names == ["Comedy", "Crime", "Drama"]


def test_one_row_per_user(wild: Wild, plain: Outcome) -> None:
    of: dict[str, list[tuple[str, int]]] = {}
    for user, item, time in log():
        of.setdefault(user, []).append((item, time))
    items, times = ([[pair[part] for pair in row] for row in of.values()] for part in (0, 1))
    pq.write_table(pa.table({"user": list(of), "item": items, "time": times}), wild.folder / "sessions.parquet")
    text = wild.refused(wild.path("sessions.parquet"))
    assert text.startswith("sessions.parquet: row 1: column 'item' is a list, and a row must be one interaction")
    assert wild.data(wild.path("sessions.parquet"), "data.per_user=true").histories == plain.histories
    write_csv(wild.folder / "log.csv", NAMES, [(u, str(i), str(t)) for u, i, t in zip(of, items, times, strict=True)])
    assert "is a list" in wild.refused()
    assert wild.data("data.per_user=true").histories == plain.histories
    write_csv(wild.folder / "log.csv", NAMES, [("u0", "['a', 'b']", "[1]")])
    assert wild.refused("data.per_user=true") == "log.csv:2: column 'time' has 1 values where 'item' has 2"


def test_a_list_of_users_is_refused(wild: Wild) -> None:
    pq.write_table(pa.table({"user": [["a"]], "item": ["b"], "time": [1]}), wild.folder / "log.parquet")
    assert "column 'user' is a list" in wild.refused(wild.path("log.parquet"))


@pytest.mark.parametrize("quote", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_ratings_of_zero_and_none(wild: Wild, tmp_path: Path, quote: int) -> None:
    rows = [(*row, ("0", "", "5", "5", "5", "NA")[n % 6]) for n, row in enumerate(log())]
    write_csv(wild.folder / "log.csv", [*NAMES, "rating"], rows, quoting=quote)
    made = wild.data("data.columns.rating=rating")
    assert made.log["left"] == ROWS
    assert f"{ROWS // 6} rows are rated 0 and are kept" in made.said
    made = wild.data("data.columns.rating=rating", "data.min_rating=3", "data.k_core=0", "data.targets=1")
    assert (made.log["low_rating"], made.log["without_rating"]) == (ROWS // 6, ROWS // 3)
