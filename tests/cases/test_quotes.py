"""Quotes that nothing ends, which make rows a part of a field."""

import gzip
from collections.abc import Callable

import pyarrow as pa
import pytest

from blade_dist.data.unended import RowLike
from tests.cases.wild import ROWS, Outcome, Wild, log, titles

QUOTE = '"'
UNENDED = (
    "a quote begins a field there that nothing ends, so that rows become a part of it: end it, write one that is a "
    "letter twice, or set data.quoted=false where all are letters"
)


def noted(wild: Wild, note: Callable[[int], str], first: bool = False) -> None:
    """The log with a column of notes behind the others, or before them."""
    rows = [("user,item,time", "note"), *((",".join(map(str, row)), note(n)) for n, row in enumerate(log()))]
    lines = (",".join(reversed(row) if first else row) for row in rows)
    (wild.folder / "log.csv").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    "rows", [[100], [100, 200], [100, 103], [0, 300], [100, 101], [0, 1, 200, 201], [ROWS - 2, ROWS - 1], [ROWS - 2]]
)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("bad_rows", ["refuse", "drop"])
def test_a_quote_that_nothing_ends_is_refused(
    wild: Wild, plain: Outcome, rows: list[int], first: bool, bad_rows: str
) -> None:
    noted(wild, lambda n: '"12 inches' if n in rows else "none", first)
    assert wild.refused(f"data.bad_rows={bad_rows}") == f"log.csv:{rows[0] + 2}: {UNENDED}"
    made = wild.data(f"data.bad_rows={bad_rows}", "data.quoted=false")
    assert (made.log["read"], made.histories) == (ROWS, plain.histories)


TEXTS = [
    '"one, two, three, four\nred, green, blue, white\n\nsmall, large, huge, 5"',
    '"1,2,3,4\n5,6,7,8\nwords\nand, more\nwords"',
    '"a ""word""\nb\nc\nd"',
    '"one\ntwo, ""three"""',
    '"Heroes" and villains',
    '12"',
]


@pytest.mark.parametrize("text", TEXTS)
def test_notes_of_several_lines_are_none(wild: Wild, plain: Outcome, text: str) -> None:
    noted(wild, lambda n: text)
    assert wild.data().histories == plain.histories


def test_items_whose_titles_begin_with_a_quote(wild: Wild) -> None:
    lines = [f"{item},{QUOTE * (item == 'i3')}{title},a" for item, title in titles().items()]
    (wild.folder / "items.csv").write_text("\n".join(["item,title,genre", *lines]))
    assert wild.refused() == f"items.csv:5: {UNENDED}"
    assert wild.data("data.quoted=false").titles["i3"] == '"Title 3'


@pytest.mark.parametrize("names", ["item,title,genre", "item,title"])
def test_two_neighbours_among_words(wild: Wild, names: str) -> None:
    more = ",a" * names.endswith("genre")
    lines = [f"{item},{QUOTE * (item in ('i3', 'i4'))}{title}{more}" for item, title in titles().items()]
    (wild.folder / "items.csv").write_text("\n".join([names, *lines]))
    groups = f"data.columns.groups={'genre' if more else 'null'}"
    assert wild.refused(groups) == f"items.csv:5: {UNENDED}"
    assert wild.data("data.quoted=false", groups).titles["i4"] == '"Title 4'


def test_a_row_is_told_by_its_numbers_or_by_its_length() -> None:
    lines = ["x", *["u,i,7"] * 3, "y"]
    assert RowLike(["u", "i", "1600000000"], ",").is_in(pa.array(["\n".join(lines)]))
    assert not RowLike(["u", "i", "1600000000"], ",").is_in(pa.array(["x\nu,i,no\ny", "a\nb", None]))
    words = RowLike(["u", "i", "t"], ",")
    assert not words.is_in(pa.array(["\n".join(lines)]))
    assert words.is_in(pa.array(["\n".join(["x", *["u,i,t"] * 9, "no", "y"])]))


def test_a_line_is_where_a_row_begins(wild: Wild) -> None:
    noted(wild, lambda n: '"two\nlines"' if n else "one")
    with (wild.folder / "log.csv").open("a") as file:
        file.write('u1,i1,soon,"x\ny"\n')
    assert wild.refused().startswith(f"log.csv:{2 * ROWS + 1}: column 'time': 'soon' is no time")


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00\x01\x02\x03", b"PK\x07\x08\x01\x02,\n", b"\x80\x04}q\x00,\n"])
def test_what_is_no_text_is_said_so(wild: Wild, content: bytes) -> None:
    (wild.folder / "log.csv").write_bytes(gzip.compress(content) if content[:1] == b"\x1f" else content)
    assert wild.refused() == "log.csv: no text: its first line has bytes that no text has; is it compressed once more?"


@pytest.mark.parametrize("name", ["utf9", "rot13", "base64"])
def test_an_encoding_that_nobody_knows(wild: Wild, name: str) -> None:
    assert "data.encoding: no encoding of that name; write utf-8, latin-1" in wild.refused(f"data.encoding={name}")


def test_an_answer_in_xml_is_no_table(wild: Wild) -> None:
    (wild.folder / "log.csv").write_text('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>\n')
    assert wild.refused().startswith("log.csv: it is a web page and no table")
