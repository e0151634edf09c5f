"""What the log is like: its span of time, sessions, ties; and examples of what the filters dropped. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.data.partition import ReadCounts
from blade_dist.data.sequences import SequenceStore

SESSION = 30 * 60 * 10**6
"""Microseconds of rest after which a new session begins, as web analytics count it."""
_DATES = (315_532_800 * 10**6, 4_102_444_800 * 10**6)
"""1980 to 2100: where half of the times or more are between these they are dates, else they only count up."""
MANY_TIES = 0.3


def describe_times(read: ReadCounts, store: SequenceStore) -> dict[str, Any]:
    """Span of all interactions; of those that are left, sessions, the share of neighbours with equal times, and how
    many are no dates where most are, or dates where most are none."""
    gaps = equal = sessions = users = every = odd = 0
    odd_one: int | None = None
    for partition in range(len(store)):
        part = store.load(partition)
        outside = (part.times < _DATES[0]) | (part.times > _DATES[1])
        every, odd = every + len(outside), odd + int(outside.sum())
        if odd_one is None and outside.any():
            odd_one = int(part.times[outside][0])
        rest = np.diff(part.times)
        inside = np.ones(len(rest), bool)
        ends = part.items.offsets[1:-1] - 1
        inside[ends[(ends >= 0) & (ends < len(rest))]] = False  # from one user to the next is no gap
        gaps, equal = gaps + int(inside.sum()), equal + int((rest[inside] == 0).sum())
        sessions, users = sessions + int((rest[inside] > SESSION).sum()), users + len(part)
    first, last = read.first_time, read.last_time
    dated = every > 0 and 2 * odd <= every
    return {
        "first": _date(first) if dated else first,
        "last": _date(last) if dated else last,
        "no_dates": odd if dated else 0,
        "first_no_date": _date(odd_one) if dated else None,
        "dates": 0 if dated else every - odd,
        "of_times": every,
        "sessions": sessions + users if dated else None,
        "equal_neighbours": equal / gaps if gaps else 0.0,
    }


def times_hints(times: dict[str, Any]) -> list[str]:
    """Lines where the order of many histories is that of the files, and where some times can't be right."""
    lines = []
    if times["equal_neighbours"] >= MANY_TIES:
        share = f"{times['equal_neighbours']:.0%}"
        what = "of neighbours in a history have the same time (data.columns.time): their order is that of the files"
        lines.append(f"{share} {what}")
    if times["no_dates"]:
        lines.append(
            f"{times['no_dates']:,} times are before 1980 or after 2100, as {times['first_no_date']}, and come first "
            "or last in their histories: if they stand for an unknown time, leave these rows out of the log"
        )
    if times["dates"]:
        lines.append(
            f"{times['dates']:,} of {times['of_times']:,} times are dates and the others only count up, or are before "
            "1980 or after 2100: which of the two kinds is earlier is not known; write all alike"
        )
    return lines


def example_of_core(raw: SequenceStore, left: SequenceStore, counts: NDArray[np.int64], items: pa.Table) -> str:
    """A user, or else an item, that ``data.k_core`` dropped."""
    for partition in range(len(raw)):
        before, after = raw.load(partition), left.load(partition)
        gone = pc.invert(pc.is_in(before.users, value_set=after.users))
        if (place := pc.index(gone, True).as_py()) >= 0:
            return f"user {before.users[place].as_py()!r} with {before.items.lengths[place]}"
    had = np.zeros_like(counts)
    for partition in range(len(raw)):
        had += np.bincount(raw.load(partition).items.flat, minlength=len(counts))
    dropped = np.flatnonzero((had > 0) & (counts == 0))
    return f"item {items.column('item')[int(dropped[0])].as_py()!r} with {had[dropped[0]]}" if len(dropped) else ""


def _date(time: int | None) -> str | None:
    return None if time is None else str(np.datetime64(time, "us").astype("datetime64[D]"))
