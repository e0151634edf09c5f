"""How a file of delimited text is written: CSV, TSV, ``a::b``, RecBole's atomic files. Pure."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from blade_dist.data.columns import folded
from blade_dist.data.found import DataFile
from blade_dist.errors import UserError

SEPARATORS = (",", "\t", ";", "|", "::", "^", "~", "\x01", " ")
"""The last two: Hive's, and blanks where nothing else finds a column."""
_TABBED = (".tsv", ".tab", ".inter", ".item")
_UNIT = "\x1f"
"""Stands for a separator of several characters, which Arrow does not know: the ASCII unit separator."""
_SAMPLE = 1 << 20
_NO_TEXT = re.compile(r"[\x00\x02-\x08\x0e-\x1a]")
_LINE = re.compile(r"\r\n|\r|\n")
_EXCEL = re.compile(r'"?sep=(.)"?')
"""A first line by which Excel is told the separator."""
LONGEST_FIELD = 2**31 - 1
"""Python's csv module would refuse a field of more than 128 KiB, which a quote that nobody ends makes of a file."""
_RECBOLE = re.compile(r"(.+):(token|token_seq|float|float_seq)$")


@dataclass(frozen=True)
class Dialect:
    """How a file is written."""

    separator: str
    names: tuple[str, ...]
    head: int = 1
    """Lines before the first row: blank ones, remarks, and that of the names."""
    quote: str | None = '"'
    """In which a field may stand; None: a quote is a character like others."""
    escaped: bool = False
    """Whether a quote in a field is ``\\"``, as Spark and MySQL write it, and not doubled."""
    encoding: str = "utf-8"
    sequences: frozenset[str] = frozenset()
    """Columns whose values are joined by blanks (``:token_seq`` of RecBole)."""
    repeated: frozenset[str] = frozenset()
    """Names that several columns have; the first of these is read."""

    @property
    def wide(self) -> bool:
        """Whether characters are two bytes, so that a line is not found by its bytes."""
        return self.encoding.startswith("utf-16")

    @property
    def delimiter(self) -> str:
        """One character."""
        return self.separator if len(self.separator) == 1 else _UNIT


def sniff(
    file: DataFile,
    wanted: set[str],
    separator: str | None,
    encoding: str,
    header: Sequence[str] | None = None,
    quoted: bool | None = None,
) -> Dialect:
    """How a file is written that has its names in the first line, or that has none.

    Blank lines, Excel's ``sep=;`` and remarks that begin with ``#`` may stand above it.

    Args:
        file: not empty.
        wanted: names of columns: the separator is the one that finds most of them, and else most columns.
        separator: ``data.separator``; None: see ``wanted``.
        encoding: ``data.encoding``; a byte order mark outdoes it.
        header: names of the columns, in order, where the first line is a row; None: it names them.
        quoted: ``data.quoted``; None: as the beginning of the file shows.

    Raises:
        UserError: no first line, one that is no text, or one that has not as many fields as ``header`` has names.
    """
    wanted, sample = set(map(folded, wanted)), file.head(_SAMPLE)
    encoding = _wide(sample) or encoding
    text = sample.decode("utf-8-sig" if encoding == "utf-8" else encoding, errors="replace")
    place, first, told = _first_line(text, wanted if header is None else set())
    if not first:
        raise UserError(f"{file}: the file is empty; its first line must name the columns")
    if _NO_TEXT.search(first):
        raise UserError(f"{file}: no text: its first line has bytes that no text has; is it compressed once more?")
    given = separator if separator is not None and separator in first else None
    separator = given or told or _separator(first, wanted, file, header)
    quote = "'" if all(re.fullmatch(r"\s*'.*'\s*", name) for name in first.split(separator)) else '"'
    names = _header(first, separator, quote)
    if header is not None:
        if len(names) != len(header):
            raise UserError(
                f"{file}:{place + 1}: {len(names)} fields, and {len(header)} columns are named (data.header; of the "
                "items: data.items_header); name every column, in order"
            )
        place, names = place - 1, list(header)
    typed = header is None and all(map(_RECBOLE.match, names))
    plain = [_RECBOLE.sub(r"\1", name) for name in names] if typed else names
    sequences = {new for new, old in zip(plain, names, strict=True) if typed and old.endswith("_seq")}
    if quoted is None:
        quoted = not typed and _is_quoted(text, separator)
    quoted = quoted and len(separator) == 1
    escaped = quoted and _is_escaped(text, separator)
    twice = frozenset(name for name in plain if name and plain.count(name) > 1)
    mark = quote if quoted else None
    return Dialect(separator, _once(plain), place + 1, mark, escaped, encoding, frozenset(sequences), twice)


def _wide(sample: bytes) -> str | None:
    """UTF-16, by its mark, or by the zeros that it has beside every letter of a first line."""
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    first = sample[:32]
    for name, zeros, letters in (("utf-16-le", first[1::2], first[::2]), ("utf-16-be", first[::2], first[1::2])):
        if zeros and not any(zeros) and all(letters):
            return name
    return None


def _first_line(text: str, wanted: set[str]) -> tuple[int, str, str | None]:
    """Which line names the columns (counted from 0), that line, and the separator of a line of Excel's above it."""
    told = None
    for place, line in enumerate(_LINE.split(text)):
        if excel := _EXCEL.fullmatch(line.strip()):
            told = excel[1]
        elif line.strip() and not (line.startswith("#") and wanted.isdisjoint(map(folded, re.findall(r"\w+", line)))):
            return place, line, told
    return 0, "", None


def _separator(first: str, wanted: set[str], file: DataFile, header: Sequence[str] | None) -> str:
    if "\t" in first and set(file.suffixes).intersection(_TABBED):
        return "\t"
    found = {mark: _header(first, mark) for mark in SEPARATORS}
    if header and (fit := [mark for mark in SEPARATORS if len(found[mark]) == len(header)]):
        return fit[0]
    return max(
        found, key=lambda mark: (len(wanted.intersection(map(folded, found[mark]))), mark != " " and len(found[mark]))
    )


def _header(line: str, separator: str, quote: str = '"') -> list[str]:
    # a carriage return in a line is no end of a line to us, and csv would refuse it
    line = line.replace("\r", " ")
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader([line], delimiter=separator[0], quotechar=quote, skipinitialspace=separator != " ")
    parts = line.split(separator) if len(separator) > 1 else next(reader, [])
    return [name.strip() for name in parts]


def _once(names: list[str]) -> tuple[str, ...]:
    """A name that was there before, or none, gets its place: only the first of equal ones can be asked for."""
    return tuple(name if name and name not in names[:place] else f"{name}.{place}" for place, name in enumerate(names))


def _is_quoted(text: str, separator: str) -> bool:
    """False where fields begin with quotes that none ends: there a quote is a character, as in ``"Heroes" (12")``."""
    if separator == ",":
        return True
    mark = re.escape(separator)
    begins = len(re.findall(rf'(?:^|{mark})"', text, re.MULTILINE))
    ends = len(re.findall(rf'"(?:$|{mark}|\r)', text, re.MULTILINE))
    return 10 * ends >= 9 * begins


def _is_escaped(text: str, separator: str) -> bool:
    """Whether ``\\"`` stands inside fields; before a separator it may be a field that ends with a backslash."""
    mark = re.escape(separator)
    return bool(re.search(rf'[^\\{mark}]\\"(?!{mark}|\r|\n|"|$)', text))
