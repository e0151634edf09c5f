"""Times of any kind as whole microseconds. Pure.

Microseconds, as they hold every published log exactly and eight bytes reach 290,000 years. Seconds, milliseconds and
nanoseconds are told apart by their size: a number below 1e11 is seconds (until the year 5138), below 1e14
milliseconds (1973 and later), below 1e17 microseconds, above nanoseconds. Numbers that only count up are far below 1e11
and keep their order as seconds do. Whole numbers of 8, 10, 12 or 14 digits that are all dates, as 20240131, 2024013110
and 20240131103000, are those dates: as seconds those of 10 digits would be in 2032 to 2036, as milliseconds those of 12
in 1976.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.data.remarks import Remarks
from blade_dist.data.spelt import day_of_24_hours, iso_dates

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds", "dates")
_LIMITS = (1e11, 1e14, 1e17)
_PLACE = r"[A-Z][A-Za-z]+/[A-Za-z_/+-]+"
"""A zone by its place, as ``Europe/Berlin``."""
_ABOUT_ZONES = rf"UTC|GMT|{_PLACE}|\)$"
_OFFSETS = (
    (r" ?\([^()]+\)$", ""),
    (rf"(Z|[+-][0-9]{{2}}:?[0-9]{{2}}) ?(?:\[(?:UTC|GMT)\]|\[?{_PLACE}\]?)$", r"\1"),
    (r" ?(?:GMT|UTC) ?([+-])([0-9])(?::?00)?$", r" \10\2:00"),
    (r" ?(?:GMT|UTC) ?([+-][0-9]{2}(?::?[0-9]{2})?)$", r" \1"),
)
"""What programs write about a zone beside its distance from UTC, as JavaScript and Java do."""
_ZONE = r"^[0-9-]{8,10}[T ][0-9:.,]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def microseconds(
    column: pa.ChunkedArray | pa.Array, day_first: bool | None = None
) -> tuple[pa.Array, NDArray[np.int64]]:
    """Times as int64 microseconds, null where one can't be read.

    Numbers (whole or not, or as text), date-times with or without a zone (without: UTC), dates. ``day_first``: see
    :func:`blade_dist.data.spelt.iso_dates`.

    Returns:
        The times; int64 ``[5]``: how many of the numbers were of each of :data:`UNITS` (0 is of none).
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, none = column.type, np.zeros(len(UNITS), np.int64)
    if pa.types.is_temporal(kind) and not pa.types.is_time(kind) and not pa.types.is_duration(kind):
        return _typed(column), none
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(column)
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.int64()), none
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text(column.cast(pa.string()), day_first)
    return pa.nulls(len(column), pa.int64()), none


def say_units(remarks: Remarks) -> None:
    """Says where the numbers of one log were of several units: all but the most frequent count as repaired."""
    there = [unit for unit in np.argsort(-remarks.units) if remarks.units[unit]]
    if len(there) > 1:
        example = " and ".join(f"{remarks.unit_examples.get(UNITS[unit], '')} ({UNITS[unit]})" for unit in there[:2])
        remarks.repair(
            "times in another unit than most", int(remarks.units[there[1:]].sum()), f"{example} brought to one"
        )


_COARSE = {"s": 10**6, "ms": 1000}
"""Microseconds of the units that have more than one."""


def _typed(column: pa.Array) -> pa.Array:
    """Timestamps of any unit and zone, dates: since 1970 in UTC; null beyond what 64 bits of microseconds hold."""
    kind, zone = column.type, getattr(column.type, "tz", None)
    size = 86_400 * 10**6 if pa.types.is_date32(kind) else _COARSE.get(getattr(kind, "unit", "ms"), 1)
    whole = (column.cast(pa.int32()) if pa.types.is_date32(kind) else column).cast(pa.int64())
    column = pc.if_else(pc.less(pc.abs(whole), (2**63 - 1) // size), column, None)
    # finer than microseconds is cut off; a coarser or larger unit is exact
    return column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())


def _numbers(column: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    if pa.types.is_integer(column.type):
        try:
            whole = column.cast(pa.int64())
        except pa.ArrowInvalid:  # unsigned, above 2**63
            whole = column.cast(pa.float64())
        if pa.types.is_int64(whole.type):
            dates = _as_dates(whole)
            return (
                _scaled(whole.fill_null(0).to_numpy(zero_copy_only=False), whole.is_null()) if dates is None else dates
            )
    numbers = column.cast(pa.float64())
    plain = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    lost = ~np.isfinite(plain) | numbers.is_null().to_numpy(zero_copy_only=False)
    return _scaled(np.where(lost, 0, plain), pa.array(lost))


def _as_dates(whole: pa.Array) -> tuple[pa.Array, NDArray[np.int64]] | None:
    """Whole numbers that are all dates of 1970 to 2099, as people write them; None where one of them is none."""
    there = whole.drop_null().to_numpy()
    if not len(there) or there.min() < 1970_01_01:
        return None
    for lacking in (6, 4, 2, 0):  # digits of the clock
        if there.max() < 2100_01_01 * 10 ** (6 - lacking):
            break
    date, clock = np.divmod(there * 10**lacking, 10**6)
    year, month, day = date // 10_000, date // 100 % 100, date % 100
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    if year.min() < 1970 or year.max() > 2099 or month.min() < 1 or max(month.max() - 12, hour.max() - 23) > 0:
        return None
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if day.min() < 1 or (days.astype("datetime64[M]") != months).any() or max(minute.max(), second.max()) > 59:
        return None
    times = days.astype("datetime64[us]").astype(np.int64) + ((hour * 60 + minute) * 60 + second) * 10**6
    whole_times = np.zeros(len(whole), np.int64)
    whole_times[whole.is_valid().to_numpy(zero_copy_only=False)] = times
    return pc.if_else(whole.is_null(), None, pa.array(whole_times)), np.array([0, 0, 0, 0, len(there)])


def _scaled(numbers: NDArray, null: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """Seconds times 1e6, and so on; ``numbers``: int64 or float64."""
    size = np.abs(numbers.astype(np.float64))
    unit = np.searchsorted(_LIMITS, size, side="right")
    of = np.bincount(unit[size > 0], minlength=len(UNITS))
    if numbers.dtype.kind == "i":
        times = np.select(
            [unit == 0, unit == 1, unit == 2], [numbers * 1_000_000, numbers * 1000, numbers], numbers // 1000
        )
    else:
        scale = np.array([1e6, 1e3, 1.0, 1e-3])[unit]
        times = np.round(numbers * scale).clip(-9.2e18, 9.2e18).astype(np.int64)
    return pc.if_else(null, None, pa.array(times)), of


def _text(column: pa.Array, day_first: bool | None) -> tuple[pa.Array, NDArray[np.int64]]:
    column = pc.utf8_trim_whitespace(column)
    is_number = pc.match_substring_regex(column, _NUMBER).fill_null(False)
    if pc.all(is_number).as_py():
        try:
            return _numbers(column.cast(pa.int64()))
        except pa.ArrowInvalid:  # 1.6e9, 12.0
            return _numbers(column.cast(pa.float64()))
    numbers, of = _numbers(pc.if_else(is_number, column, None).cast(pa.float64()))
    return pc.coalesce(numbers, _dates(pc.if_else(is_number, None, column), day_first)), of


def _dates(column: pa.Array, day_first: bool | None) -> pa.Array:
    """ISO dates and date-times, null where it is none.

    Also without marks, with ``/``, ``UTC`` or a comma for the point, with one digit for a month or an hour, with AM or
    PM, and as :func:`blade_dist.data.spelt.iso_dates` orders them.
    """
    if pc.any(pc.match_substring_regex(column, _ABOUT_ZONES)).as_py():
        for form, plain in _OFFSETS:
            column = pc.replace_substring_regex(column, form, plain)
        if pc.any(pc.match_substring_regex(column, rf"{_PLACE}\]?$")).as_py():
            return _of_places(column, day_first)
    column, added = day_of_24_hours(column)
    column = iso_dates(column, day_first)
    column = pc.replace_substring_regex(column, r"^([0-9]{4})([0-9]{2})([0-9]{2})[T ]?", r"\1-\2-\3T")
    column = pc.replace_substring_regex(column, r"T([0-9]{2})([0-9]{2})([0-9]{2})", r"T\1:\2:\3")
    for _ in range(2):  # neighbours share a mark
        column = pc.replace_substring_regex(column, r"([-/T :])([0-9])([-/T :.]|$)", r"\10\2\3")
    column = pc.replace_substring_regex(column, r"^([0-9]{4})[/.]([0-9]{2})[/.]([0-9]{2})", r"\1-\2-\3")
    column = pc.replace_substring_regex(column, r" ?(?:UTC|GMT|utc|z|\[(?:UTC|GMT)\])$", "Z")
    column = pc.replace_substring_regex(column, r"([0-9]{2}:[0-9]{2}:[0-9]{2}),([0-9]+)", r"\1.\2")
    column = pc.replace_substring_regex(column, r" ([+-][0-9]{2}:?[0-9]{2})$", r"\1")
    column = pc.replace_substring_regex(column, r"(\.[0-9]{9})[0-9]+", r"\1")
    zoned = pc.match_substring_regex(column, _ZONE).fill_null(False)
    plain = _parsed(pc.if_else(zoned, None, column), None)
    if pc.any(zoned).as_py():
        plain = pc.coalesce(plain, _parsed(pc.if_else(zoned, column, None), "UTC"))
    return pc.add(plain, added)


def _of_places(column: pa.Array, day_first: bool | None) -> pa.Array:
    """Dates of which some end with the place of their zone: as clocks there show them, the earlier of two that do."""
    parts = pc.extract_regex(column, rf"^(?P<clock>.*[0-9])(?: |\[)(?P<place>{_PLACE})\]?$")
    clock, place = (pc.struct_field(parts, name) for name in ("clock", "place"))
    named = pc.match_substring_regex(column, rf"{_PLACE}\]?$").fill_null(False)
    times = _dates(pc.if_else(named, None, column), day_first)
    for name in place.drop_null().unique().to_pylist():
        local = _dates(pc.if_else(pc.equal(place, name), clock, None), day_first).cast(pa.timestamp("us"))
        with suppress(pa.ArrowInvalid):  # a place that nobody knows: its times can't be read
            there = pc.assume_timezone(local, name, ambiguous="earliest", nonexistent="earliest")
            times = pc.coalesce(times, there.cast(pa.int64()))
    return times


def _parsed(column: pa.Array, zone: str | None) -> pa.Array:
    """Text as timestamps, null where it is none: all at once, and text by text only where one of them is none."""
    for unit in ("us", "ns"):
        try:
            return column.cast(pa.timestamp(unit, zone)).cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
        except pa.ArrowInvalid:
            continue
    if len(column) == 1:
        return pa.nulls(1, pa.int64())
    half = len(column) // 2
    return pa.concat_arrays([_parsed(column.slice(0, half), zone), _parsed(column.slice(half), zone)])
