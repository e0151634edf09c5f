"""Text without names of its columns, and items whose id is called otherwise than in the log."""

import datetime as dt
import gzip
from collections.abc import Callable

import pytest

from blade_dist.data.columns import ALIASES, folded
from tests.cases.wild import Outcome, Wild, log, titles, write_csv

NAMES = ["user", "item", "time"]


def _u_data(wild: Wild) -> list[str]:
    (wild.folder / "u.data").write_text("".join(f"{u}\t{i}\t3\t{t}\n" for u, i, t in log()))
    return [wild.path("u.data"), "data.header=[user,item,rating,time]"]


def _one_million(wild: Wild) -> list[str]:
    (wild.folder / "ratings.dat").write_text("".join(f"{u}::{i}::3::{t}\n" for u, i, t in log()))
    (wild.folder / "movies.dat").write_text("".join(f"{i}::{t}::Crime|Drama\n" for i, t in titles().items()))
    items = [f"data.items={wild.folder / 'movies.dat'}", "data.items_header=[item,title,genre]"]
    return [wild.path("ratings.dat"), "data.header=[user,item,rating,time]", *items]


def _clicks(wild: Wild) -> list[str]:
    """Of Yoochoose."""
    when = ((u, i, dt.datetime.fromtimestamp(t, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")) for u, i, t in log())
    (wild.folder / "clicks.dat").write_text("".join(f"{u},{t},{i},0\n" for u, i, t in when))
    return [wild.path("clicks.dat"), "data.header=[user,time,item,category]"]


def _check_ins(wild: Wild) -> list[str]:
    """Of Gowalla, below remarks as SNAP writes them."""
    rows = "".join(f"{u}\t{t}\t30.2\t-97.7\t{i}\n" for u, i, t in log())
    (wild.folder / "checkins.txt.gz").write_bytes(gzip.compress(f"# check-ins\n{rows}".encode()))
    return [wild.path("checkins.txt.gz"), "data.header=[user,time,latitude,longitude,item]"]


def _blanks(wild: Wild) -> list[str]:
    (wild.folder / "edges.txt").write_text("".join(f"{u} {i} {t}\n" for u, i, t in log()))
    return [wild.path("edges.txt"), "data.header=[user,item,time]"]


def _own_names(wild: Wild) -> list[str]:
    (wild.folder / "log.csv").write_text("".join(f'"{t}";"{i}";"{u}"\n' for u, i, t in log()))
    return [
        "data.header=[when,what,who]",
        *(f"data.columns.{a}={b}" for a, b in zip(NAMES, ("who", "what", "when"), strict=True)),
        "data.columns.id=item",
    ]


def _parts(wild: Wild) -> list[str]:
    (wild.folder / "parts").mkdir()
    for part in range(3):
        lines = "".join(f"{u}\x01{i}\x01{t}\n" for u, i, t in log()[part::3])
        (wild.folder / "parts" / f"00000{part}_0").write_text(lines)
    return [wild.path("parts"), "data.header=[user,item,time]"]


@pytest.mark.parametrize("made", [_u_data, _one_million, _clicks, _check_ins, _blanks, _own_names, _parts])
def test_columns_are_named_by_settings(wild: Wild, plain: Outcome, made: Callable[[Wild], list[str]]) -> None:
    settings = made(wild)
    assert wild.data(*settings).histories == plain.histories
    assert "is its first line a row? data.header=[...] names the columns then" in wild.refused(
        *(setting for setting in settings if not setting.startswith(("data.header", "data.columns")))
    )


def test_items_without_names_are_asked_about_with_their_own_setting(wild: Wild) -> None:
    (wild.folder / "items.csv").write_text("".join(f"{i},{t},a\n" for i, t in titles().items()))
    assert wild.refused().endswith("is its first line a row? data.items_header=[...] names the columns then, in order")


def test_every_column_needs_a_name(wild: Wild) -> None:
    _u_data(wild)
    assert wild.refused(wild.path("u.data"), "data.header=[user,item,time]") == (
        "u.data:1: 4 fields, and 3 columns are named (data.header; of the items: data.items_header); name every "
        "column, in order"
    )
    with (wild.folder / "u.data").open("a") as file:
        file.write("u1\ti2\t3\tsoon\n")
    said = wild.refused(wild.path("u.data"), "data.header=[user,item,rating,time]")
    assert said.startswith(f"u.data:{len(log()) + 1}: column 'time': 'soon' is no time")


def test_names_beside_a_first_line_that_has_them_leave_that_line_out(wild: Wild, plain: Outcome) -> None:
    data = wild.data("data.header=[user,item,time]")
    assert data.histories == plain.histories
    assert data.bundle.card["remarks"]["dropped"]["the first line again"]["count"] == 1


@pytest.mark.parametrize(("name", "said"), [("id", True), ("sku", True), ("Product ID", True), ("code", False)])
def test_items_may_call_their_id_otherwise(wild: Wild, plain: Outcome, name: str, said: bool) -> None:
    write_csv(wild.folder / "log.csv", ["user", "bought", "time"], log())
    write_csv(wild.folder / "items.csv", [name, "title", "genre"], [(i, t, "a") for i, t in titles().items()])
    if not said:
        assert wild.refused("data.columns.item=bought") == (
            f"items.csv: no column 'bought' (data.columns.item); it has {name}, title, genre; where the items call it "
            "otherwise than the log, set data.columns.id"
        )
    made = wild.data("data.columns.item=bought", *([] if said else [f"data.columns.id={name}"]))
    assert made.histories == plain.histories
    assert (f"column {name!r} is taken as the item id of the items (data.columns.id)" in made.said) == said


def test_a_rating_is_found_where_one_is_asked_for(wild: Wild) -> None:
    write_csv(wild.folder / "log.csv", [*NAMES, "Stars"], [(*row, n % 5) for n, row in enumerate(log())])
    made = wild.data("data.min_rating=1", "data.k_core=0", "data.targets=1")
    assert made.log["low_rating"] == len(log()) // 5
    assert "column 'Stars' is taken as the rating (data.columns.rating)" in made.said


def test_no_published_name_stands_for_two_things() -> None:
    names = [folded(name) for role, names in ALIASES.items() if role != "id" for name in (role, *names)]
    assert len(names) == len(set(names))
