"""Numbers and dates as people write them, brought to the forms that Arrow reads. Pure.

Only what can mean one thing: 1,5 and 1600000000,125 have a fraction, 1,600,000,000, 1.600.000.000 and 1 600 have none,
and 1,234 could be either, so that it stays. 31.01.2024 begins with the day; 01/02/2024 could begin with either, and
stays where nobody knows which.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.remarks import Remarks, shown

_DECIMAL = (r"^\s*([+-]?[0-9]+),([0-9]{1,2}|[0-9]{4,})\s*$", r"^\s*([+-]?(?:0+|[0-9]{4,})),([0-9]+)\s*$")
_BLANK = r" '\x{a0}\x{202f}\x{2009}\x{2019}"
"""What stands between thousands and nowhere else in a number: blanks of all widths, the apostrophe of the Swiss."""
_GROUPED = (
    (r"^\s*[+-]?[0-9]{1,3}(,[0-9]{3}){2,}(\.[0-9]+)?\s*$", ","),
    (r"^\s*[+-]?[0-9]{1,3}((\.[0-9]{3}){2,}(,[0-9]+)?|(\.[0-9]{3})+,[0-9]+)\s*$", r"\."),
    (rf"^\s*[+-]?[0-9]{{1,3}}([{_BLANK}][0-9]{{3}})+([.,][0-9]+)?\s*$", f"[{_BLANK}]"),
)
"""Numbers with a mark between thousands, and that mark."""
_MARKED = rf"^\s*[+-]?(?:[0-9]+,|[0-9]{{1,3}}[.{_BLANK}][0-9]{{3}})"
"""How each of these begins."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"((?:{'|'.join(_MONTHS)})[a-z]*)\.?"
_WEEKDAY = r"^(?i:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? +)?"
_CLOCK = r"([0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)"
_ZONE = r"(?: *(UTC|GMT|Z|[+-][0-9]{2}:?[0-9]{2}))?"
_NAMED = (
    # Sun Sep 13 12:26:40 +0000 2020, as Goodreads, Twitter and C write it
    (rf"{_WEEKDAY}(?i:{_MONTH}) +([0-9]{{1,2}}) +{_CLOCK}{_ZONE} +([0-9]{{4}})$", r"\5-\1-\2 \3\4"),
    # Sep 13, 2020
    (rf"{_WEEKDAY}(?i:{_MONTH}) +([0-9]{{1,2}}),? +([0-9]{{4}})(?:,? +{_CLOCK}{_ZONE})?$", r"\3-\1-\2 \4\5"),
    # Sun, 13 Sep 2020 12:26:40 GMT, as mails have it, and 13/Sep/2020:12:26:40 +0000, as logs of web servers do
    (rf"{_WEEKDAY}([0-9]{{1,2}})[ /-](?i:{_MONTH})[ /-]([0-9]{{4}})(?:(?:,? +|:){_CLOCK}{_ZONE})?$", r"\3-\2-\1 \4\5"),
)
_DOTTED = r"^([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})(?:,? +|$)"
_SLASHED = r"^\s*([0-9]{1,2})[/-]([0-9]{1,2})[/-]([0-9]{4})(?:,? +|T|\s*$)"
_OVER_12 = "(?:1[3-9]|2[0-9]|3[01])"
_DAY_FIRST, _MONTH_FIRST = rf"^\s*{_OVER_12}[/-][0-9]", rf"^\s*[0-9]{{1,2}}[/-]{_OVER_12}[/-]"
_BEFORE_HALF = r"[ \x{a0}\x{202f}]?"
_HALF_OF_DAY, _LATER_HALF = (rf"{_BEFORE_HALF}[{half}]\.?[Mm]\.?$" for half in ("AaPp", "Pp"))


def is_text(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's types of text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def plain_numbers(texts: pa.ChunkedArray | pa.Array, remarks: Remarks) -> pa.ChunkedArray | pa.Array:
    """Texts with a decimal comma, or with marks between thousands, as numbers with a point."""
    if not is_text(texts.type) or not pc.any(pc.match_substring_regex(texts, _MARKED)).as_py():
        return texts
    plain = texts
    for form, mark in _GROUPED:
        grouped = pc.match_substring_regex(texts, form)
        plain = pc.if_else(grouped, pc.replace_substring_regex(plain, mark, ""), plain)
    for form in _DECIMAL:
        plain = pc.replace_substring_regex(plain, form, r"\1.\2")
    changed = pc.fill_null(pc.not_equal(plain, texts), False)
    if count := pc.sum(changed).as_py() or 0:
        place = pc.index(changed, True).as_py()
        example = f"{shown(texts[place].as_py())} read as {plain[place].as_py()}"
        remarks.repair("numbers with a comma or marks between thousands", count, example)
    return plain


def slashed(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Which texts begin with two numbers and a year between ``/`` or ``-``, so that either may be the day."""
    return pc.match_substring_regex(texts, _SLASHED).fill_null(False)


def days_seen(texts: pa.ChunkedArray | pa.Array) -> tuple[bool, bool]:
    """Whether a number above 12 is first in some of the texts that are :func:`slashed`, and second in some."""
    dates = texts.filter(slashed(texts))
    first, second = (pc.any(pc.match_substring_regex(dates, form)).as_py() for form in (_DAY_FIRST, _MONTH_FIRST))
    return bool(first), bool(second)


def day_of_24_hours(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Date-times without AM and PM at their end, and the microseconds that these add or take away: int64.

    12 AM is the hour 0 and 1 PM the hour 13; an hour above 12 says by itself which it is.
    """
    marked = pc.match_substring_regex(texts, _HALF_OF_DAY).fill_null(False)
    if not pc.any(marked).as_py():
        return texts, pa.scalar(0, pa.int64())
    late = pc.match_substring_regex(texts, _LATER_HALF)
    twelve = pc.match_substring_regex(texts, r"[T ,]12:[0-9]{2}")
    early = pc.match_substring_regex(texts, r"[T ,](?:0?[0-9]|1[01]):[0-9]{2}")
    half = pa.scalar(12 * 3600 * 10**6, pa.int64())
    later = pc.if_else(pc.and_(late, early), half, pa.scalar(0, pa.int64()))
    added = pc.if_else(pc.and_(pc.invert(late), twelve), pc.negate(half), later)
    plain = pc.replace_substring_regex(texts, _HALF_OF_DAY, "")
    return pc.if_else(marked, plain, texts), pc.if_else(marked, added, 0)


def iso_dates(texts: pa.Array, day_first: bool | None = None) -> pa.Array:
    """Texts with the name of a month, or that begin with day, month and year between points, with the year first.

    ``day_first``: whether the day is first in texts that are :func:`slashed`; None: nobody knows, and they stay.
    """
    if pc.any(pc.match_substring_regex(texts, rf"(?i)[0-9 ,/-]{_MONTH}|^{_MONTH}")).as_py():
        for form, ordered in _NAMED:
            texts = pc.replace_substring_regex(texts, form, ordered)
        for number, name in enumerate(_MONTHS, start=1):
            texts = pc.replace_substring_regex(texts, rf"(?i)^([0-9]{{4}})-{name}[a-z]*-", rf"\1-{number:02}-")
    if day_first is not None:
        texts = pc.replace_substring_regex(texts, _SLASHED, r"\3-\2-\1 " if day_first else r"\3-\1-\2 ")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, _DOTTED, r"\3-\2-\1 "))
