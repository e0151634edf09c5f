"""What stands there twice: items with other titles and groups, columns of one name; and parts that are counted."""

import gzip
import zipfile
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cases.wild import ROWS, Outcome, Wild, log, titles, write_csv

NAMES = ["user", "item", "time"]
ITEMS = [(item, title, "a") for item, title in titles().items()]


@pytest.mark.parametrize("later", ["Other {}", "title {}", "Title {} (sale)"])
def test_the_first_of_several_titles_counts_and_the_others_are_said(wild: Wild, plain: Outcome, later: str) -> None:
    wild.items([*ITEMS, *((f"i{n}", later.format(n), "a") for n in range(5))])
    made = wild.data()
    assert made.titles == plain.titles
    assert (
        f"note: 5 items stand there again with another title, and the first one counts: item 'i0' is 'Title 0', later "
        f"'{later.format(0)}'"
    ) in made.said


def test_a_row_for_each_group_gives_an_item_all_of_them(wild: Wild) -> None:
    wild.items([(item, title, name) for item, title, _ in ITEMS for name in ("a", "b|c")[: 1 + int(item[1:]) % 2]])
    made = wild.data()
    catalog = made.bundle.catalog
    of = {
        item: {catalog.group_names[group] for group in catalog.groups[row]} for row, item in enumerate(catalog.item_ids)
    }
    assert of == {item: {"a", "b", "c"} if int(item[1:]) % 2 else {"a"} for item in titles()}
    assert "repaired: 12 items with other groups in a later row, put together: item 'i1' has a, b, c" in made.said


@pytest.mark.parametrize(
    ("names", "said"),
    [(("Drama", "drama", " DRAMA"), 2), (("Film", "FILM", "Play"), 1), (("Film", " Film ", "Play"), 0)],
)
def test_groups_that_differ_by_case_alone_are_said(wild: Wild, names: tuple[str, ...], said: int) -> None:
    wild.items([(item, title, names[int(item[1:]) % 3]) for item, title, _ in ITEMS])
    line = f"note: {said} groups differ from another one by case alone, and count as others: '"
    assert (line in wild.data().said) == (said > 0)


@pytest.mark.parametrize("again", [ITEMS, [("i0", "", "b")], [("i0", "Title 0", "")]])
def test_nothing_is_said_of_rows_that_say_nothing_else(
    wild: Wild, plain: Outcome, again: list[tuple[str, str, str]]
) -> None:
    wild.items([*again, *ITEMS])
    made = wild.data()
    assert made.titles == plain.titles
    assert "note:" not in made.said


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("log.csv", ["user,item,item,time", *(f"{u},{i},x,{t}" for u, i, t in log())]),
        ("log.csv", ["time;user;item;item", *(f"{t};{u};{i};" for u, i, t in log())]),
        ("items.csv", ["item,title,title,genre", *(f"{i},{t},,a" for i, t, _ in ITEMS)]),
    ],
)
def test_the_first_of_two_columns_of_one_name_is_read(wild: Wild, plain: Outcome, name: str, lines: list[str]) -> None:
    (wild.folder / name).write_text("\n".join(lines))
    made = wild.data()
    assert (made.histories, made.titles) == (plain.histories, plain.titles)
    column = "item" if name == "log.csv" else "title"
    assert f"note: several columns are called '{column}', and the first of them is read (as {wild.folder}" in made.said


def test_two_columns_of_one_name_with_types_are_refused(wild: Wild) -> None:
    users, items, times = map(pa.array, zip(*log(), strict=True))
    table = pa.Table.from_arrays([users, items, items, times], names=["user", "item", "item", "time"])
    pq.write_table(table, wild.folder / "log.parquet")
    said = wild.refused(wild.path("log.parquet"))
    assert said == "log.parquet: several columns are called 'item'; write it with a name for each"


def _folder(wild: Wild, rows: dict[str, list]) -> str:
    (wild.folder / "parts").mkdir()
    for name, part in rows.items():
        write_csv(wild.folder / "parts" / name, NAMES, part)
    return "parts"


def _named(wild: Wild, rows: dict[str, list]) -> str:
    _folder(wild, rows)
    return "parts/part-*.csv"


def _zip(wild: Wild, rows: dict[str, list]) -> str:
    _folder(wild, rows)
    with zipfile.ZipFile(wild.folder / "parts.zip", "w") as archive:
        for name in sorted(rows):
            archive.write(wild.folder / "parts" / name, name)
    return "parts.zip"


@pytest.mark.parametrize("write", [_folder, _named, _zip])
def test_parts_are_read_as_people_count(
    wild: Wild, plain: Outcome, write: Callable[[Wild, dict[str, list]], str]
) -> None:
    ordered = sorted(log(), key=lambda row: row[2])
    path = write(wild, {f"part-{n}.csv": ordered[30 * n : 30 * n + 30] for n in range(12)})
    made = wild.data(wild.path(path), "data.columns.time=null")
    assert made.histories == plain.histories


@pytest.mark.parametrize("repeats", ["first", "all"])
def test_a_compressed_copy_beside_its_file_is_passed_over(wild: Wild, plain: Outcome, repeats: str) -> None:
    _folder(wild, {"a.csv": log()[:200], "b.csv": log()[200:]})
    for name in ("a.csv", "b.csv"):
        path = wild.folder / "parts" / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    (wild.folder / "parts" / "a.csv").unlink()  # of which the compressed one is no copy then
    (wild.folder / "parts" / "README.txt").write_text("Exported daily.\n")
    made = wild.data(wild.path("parts"), f"data.repeats={repeats}")
    assert (made.log["read"], made.log["repeated"]) == (ROWS, 0)
    assert made.histories == plain.histories
    assert "1 compressed files stand beside themselves, and are passed over (as b.csv.gz)" in made.said
