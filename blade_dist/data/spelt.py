"""Numbers and dates as people write them, brought to the forms that Arrow reads. Pure.

Only what can mean one thing: 1,5 is one and a half, 1,600,000,000 has no fraction, and 1,234 could be either, so that
it stays; 31.01.2024 begins with the day, and 01/02/2024 could begin with either, so that it stays.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.remarks import Remarks, shown

_DECIMAL = r"^\s*([+-]?[0-9]+),([0-9]{1,2}|[0-9]{4,})\s*$"
_GROUPED = r"^\s*[+-]?[0-9]{1,3}(,[0-9]{3}){2,}(\.[0-9]+)?\s*$"
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
    # Sun, 13 Sep 2020 12:26:40 GMT, as mails have it
    (rf"{_WEEKDAY}([0-9]{{1,2}})[ -](?i:{_MONTH})[ -]([0-9]{{4}})(?:,? +{_CLOCK}{_ZONE})?$", r"\3-\2-\1 \4\5"),
)
_DOTTED = r"^([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})(?:,? +|$)"


def plain_numbers(texts: pa.ChunkedArray | pa.Array, remarks: Remarks) -> pa.ChunkedArray | pa.Array:
    """Texts with a decimal comma, or with commas between thousands, as numbers with a point."""
    kind = texts.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return texts
    if not pc.any(pc.match_substring(texts, ",")).as_py():
        return texts
    plain = pc.replace_substring_regex(texts, _DECIMAL, r"\1.\2")
    grouped = pc.match_substring_regex(texts, _GROUPED)
    plain = pc.if_else(grouped, pc.replace_substring(texts, ",", ""), plain)
    changed = pc.fill_null(pc.not_equal(plain, texts), False)
    if count := pc.sum(changed).as_py() or 0:
        place = pc.index(changed, True).as_py()
        remarks.repair("numbers with a comma", count, f"{shown(texts[place].as_py())} read as {plain[place].as_py()}")
    return plain


def iso_dates(texts: pa.Array) -> pa.Array:
    """Texts with the name of a month, or that begin with day, month and year between points, with the year first."""
    if pc.any(pc.match_substring_regex(texts, rf"(?i)[0-9 ,-]{_MONTH}|^{_MONTH}")).as_py():
        for form, ordered in _NAMED:
            texts = pc.replace_substring_regex(texts, form, ordered)
        for number, name in enumerate(_MONTHS, start=1):
            texts = pc.replace_substring_regex(texts, rf"(?i)^([0-9]{{4}})-{name}[a-z]*-", rf"\1-{number:02}-")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, _DOTTED, r"\3-\2-\1 "))
