"""Dates that begin with the day or the month, and hours of half a day."""

import datetime as dt
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.data.times import microseconds
from tests.cases.wild import ROWS, START, Wild, log, write_csv

NAMES = ["user", "item", "time"]
DAYS = [START + 86_400 * n for n in range(20)]
"""From 13 September to 2 October 2020: some dates could begin with either number."""


def dated(wild: Wild, form: str, days: Callable[[int], int] = lambda n: DAYS[n % 20]) -> None:
    """The log with dates; each user's stay in order."""
    rows = [(user, item, days(n)) for n, (user, item, _) in enumerate(sorted(log(), key=lambda row: row[0]))]
    rows.sort(key=lambda row: (row[0], row[2]))
    write_csv(
        wild.folder / "log.csv",
        NAMES,
        [(u, i, dt.datetime.fromtimestamp(t, dt.UTC).strftime(form)) for u, i, t in rows],
    )


@pytest.mark.parametrize(
    "form", ["%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y %I:%M:%S %p", "%d-%m-%Y", "%m-%d-%YT%H:%M:%S"]
)
def test_a_number_above_12_in_one_date_tells_of_all(wild: Wild, form: str) -> None:
    dated(wild, "%Y-%m-%d %H:%M:%S")
    iso = wild.data()
    dated(wild, form)
    made = wild.data()
    assert made.histories == iso.histories
    assert [made.bundle.card["times"][end] for end in ("first", "last")] == ["2020-09-13", "2020-10-02"]


def test_dates_that_do_not_tell_are_refused_until_it_is_said(wild: Wild) -> None:
    dated(wild, "%d/%m/%Y", lambda n: START + 86_400 * (18 + n % 11))  # 1 to 12 October
    assert wild.refused() == (
        "log.csv:2: column 'time': '01/10/2020' begins with the day or the month, and the dates of the log do not tell "
        "which: set data.day_first=true or false"
    )
    assert "set data.day_first" in wild.refused("data.bad_rows=drop")
    assert wild.data("data.day_first=true").bundle.card["times"]["last"] == "2020-10-11"
    assert wild.data("data.day_first=false").bundle.card["times"]["last"] == "2020-11-10"


def test_dates_that_contradict_each_other_are_refused(wild: Wild) -> None:
    write_csv(wild.folder / "log.csv", NAMES, [("u", "i1", "13/01/2020"), ("u", "i2", "01/13/2020")])
    assert "log.csv:2: column 'time': '13/01/2020' begins with the day or the month" in wild.refused()
    assert "log.csv:3: column 'time': '01/13/2020' is no time" in wild.refused("data.day_first=true")


def test_another_file_of_the_log_may_tell(wild: Wild) -> None:
    (wild.folder / "parts").mkdir()
    for name, day in (("a.csv", 5), ("b.csv", 25)):
        rows = [(u, i, f"{day + 12 * half:02}/10/2020") for half, (u, i, _) in zip([0] * ROWS, log(), strict=True)]
        write_csv(wild.folder / "parts" / name, NAMES, rows[:: 1 if day == 5 else 7])
    assert wild.data(wild.path("parts")).bundle.card["times"]["first"] == "2020-10-05"


def test_rows_that_are_left_out_are_counted_once(wild: Wild) -> None:
    dated(wild, "%d/%m/%Y")
    with (wild.folder / "log.csv").open("a") as file:
        file.write("u0,i1\n")
    assert wild.data("data.bad_rows=drop").log["unreadable"] == 1


def test_dates_as_text_in_parquet_and_of_lists(wild: Wild) -> None:
    users, items, times = zip(*log(), strict=True)
    day = {time: f"{1 + time % 28}/9/2020" for time in times}
    pq.write_table(
        pa.table({"user": users, "item": items, "time": [day[time] for time in times]}), wild.folder / "p.pq"
    )
    made = wild.data(wild.path("p.pq"))
    assert made.bundle.card["times"]["last"] == "2020-09-28"
    of: dict[str, list[tuple[str, str]]] = {}
    for user, item, time in log():
        of.setdefault(user, []).append((item, day[time]))
    rows = {"user": list(of), "item": [[i for i, _ in row] for row in of.values()]}
    pq.write_table(pa.table(rows | {"time": [[t for _, t in row] for row in of.values()]}), wild.folder / "p.pq")
    assert wild.data(wild.path("p.pq"), "data.per_user=true").histories == made.histories


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2020-09-13 12:00:00 AM", 0),
        ("2020-09-13 12:30 am", 0.5),
        ("2020-09-13 1:00 AM", 1),
        ("2020-09-13 11:59:00 a.m.", 11 + 59 / 60),
        ("2020-09-13 12:00 PM", 12),
        ("2020-09-13 1:00PM", 13),
        ("2020-09-13 11:00:00 p.m.", 23),
        ("2020-09-13 15:00 PM", 15),
        ("Sep 13, 2020 3:00 PM", 15),
        ("Sep 13, 2020, 3:00:00\u202fPM", 15),
        ("13.09.2020 03:00 PM", 15),
    ],
)
def test_hours_of_half_a_day(text: str, hour: float) -> None:
    midnight = dt.datetime(2020, 9, 13, tzinfo=dt.UTC).timestamp()
    assert microseconds(pa.array([text, "2020-09-13"]))[0].to_pylist() == [
        round((midnight + 3600 * hour) * 1e6),
        round(midnight * 1e6),
    ]


@pytest.mark.parametrize("counted", [lambda t: t - START, lambda t: f"{t / 86_400 + 25_569:.6f}", lambda t: 10**10 + t])
def test_dates_among_numbers_that_are_none_are_said(wild: Wild, counted: Callable[[int], object]) -> None:
    """A mere order, the days of a spreadsheet, a far future."""
    rows = [
        (u, i, counted(t) if n % 3 else dt.datetime.fromtimestamp(t, dt.UTC).isoformat())
        for n, (u, i, t) in enumerate(log())
    ]
    write_csv(wild.folder / "log.csv", NAMES, rows)
    assert f"warning: {ROWS // 3} of {ROWS} times are dates and the others only count up, or are" in wild.data().said
