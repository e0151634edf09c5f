"""What the log is like: its span of time, sessions, ties; and examples of what the filters dropped. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
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
"""1980 to 2100: times between these are dates, others only count up."""
MANY_TIES = 0.3


def describe_times(read: ReadCounts, store: SequenceStore) -> dict[str, Any]:
    """Span of all interactions; of those that are left, sessions and the share of neighbours with equal times."""
    gaps = equal = sessions = users = 0
    for partition in range(len(store)):
        part = store.load(partition)
        rest = np.diff(part.times)
        inside = np.ones(len(rest), bool)
        ends = part.items.offsets[1:-1] - 1
        inside[ends[(ends >= 0) & (ends < len(rest))]] = False  # from one user to the next is no gap
        gaps, equal = gaps + int(inside.sum()), equal + int((rest[inside] == 0).sum())
        sessions, users = sessions + int((rest[inside] > SESSION).sum()), users + len(part)
    first, last = read.first_time, read.last_time
    dated = first is not None and last is not None and _DATES[0] <= last <= _DATES[1]
    return {
        "first": _date(first) if dated else first,
        "last": _date(last) if dated else last,
        "sessions": sessions + users if dated else None,
        "equal_neighbours": equal / gaps if gaps else 0.0,
    }


def tie_hint(times: dict[str, Any]) -> list[str]:
    """A line where the order of many histories is that of the files."""
    if times["equal_neighbours"] < MANY_TIES:
        return []
    share = f"{times['equal_neighbours']:.0%}"
    what = "of neighbours in a history have the same time (data.columns.time): their order is that of the files"
    return [f"{share} {what}"]


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
    return None if time is None else datetime.fromtimestamp(time / 1e6, UTC).strftime("%Y-%m-%d")
