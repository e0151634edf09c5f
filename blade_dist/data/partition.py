"""A stream of interactions to partitions of users, so that a log larger than memory is handled in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blade_dist.data.distinct import DistinctIds, hashed
from blade_dist.data.ids import ItemIndex
from blade_dist.data.rawlog import RawLog
from blade_dist.data.remarks import Remarks
from blade_dist.data.sequences import Repeats, SequenceStore, build_sequences
from blade_dist.errors import UserError

_MOST_RATINGS = 50
_SCHEMA = pa.schema([("user", pa.string()), ("item", pa.int32()), ("time", pa.int64())])


@dataclass
class ReadCounts:
    """What became of the raw log."""

    read: int = 0
    """Rows of the log."""
    unreadable: int = 0
    """Of these, left out as they were read: see :class:`blade_dist.data.remarks.Remarks`."""
    low_rating: int = 0
    """Of these, rated below ``data.min_rating``."""
    without_rating: int = 0
    """Of these, without a rating where ``data.min_rating`` asks for one."""
    without_title: int = 0
    """Of the rest, with an item that has no title."""
    items_without_title: int = 0
    """Items of these."""
    ratings: dict[float, int] = field(default_factory=dict, compare=False)
    """Interactions with each rating; empty where there are many different ones."""
    examples: dict[str, str] = field(default_factory=dict, compare=False)
    """One of what was dropped, by the names of these counts."""
    busiest: tuple[str, int] = field(default=("", 0), compare=False)
    """The user with most rows of the rest, and how many."""
    first_time: int | None = field(default=None, compare=False)
    """In microseconds; of all interactions."""
    last_time: int | None = field(default=None, compare=False)
    repeated: int = 0
    """Of the rest, repeats of a (user, item) pair that ``data.repeats`` drops."""
    kept: int = 0
    """The rest."""
    users: int = 0
    """Different users in the log."""
    users_low_rating: int = 0
    """Of these, with ratings below ``data.min_rating`` alone."""
    users_without_title: int = 0
    """Of the rest, with items that have no title alone."""
    users_with_one_item: int = 0
    """Of the rest, with a single interaction that is kept."""
    items: int = 0
    """Different items in the log."""
    items_low_rating: int = 0
    """Of these, rated below ``data.min_rating`` alone; of the rest ``items_without_title`` have no title."""


class _Ids:
    """Who and what is in the log, at each step of reading it."""

    def __init__(self, items: int) -> None:
        self.users, self.rated_users, self.items = DistinctIds(), DistinctIds(), DistinctIds()
        self.without_title: set[str] = set()
        self.usable = np.zeros(items, dtype=bool)
        """``[I]`` rows of the items table that the log has."""

    def count(self, counts: ReadCounts, store: SequenceStore, min_rating: float | None) -> None:
        """Enters what became of users and items."""
        rated = len(self.users if min_rating is None else self.rated_users)
        lengths = [store.load(partition).items.lengths for partition in range(len(store))]
        counts.users, counts.items = len(self.users), len(self.items)
        counts.items_without_title = len(self.without_title)
        counts.items_low_rating = counts.items - len(self.without_title) - int(self.usable.sum())
        counts.users_low_rating = counts.users - rated
        counts.users_without_title = rated - sum(map(len, lengths))
        counts.users_with_one_item = sum(int((part == 1).sum()) for part in lengths)


def read_sequences(
    log: RawLog, min_rating: float | None, repeats: Repeats, partition_rows: int, folder: Path
) -> tuple[SequenceStore, ReadCounts]:
    """Reads the log once, drops what can't be used, and sorts every user's items by time.

    Args:
        log: the raw log; ``log.items`` holds each item once, with a title.
        min_rating: lower ratings are dropped.
        repeats: which interactions of a user with the same item stay.
        partition_rows: rows that may be in memory at once.
        folder: where the partitions are written.

    Raises:
        UserError: an unreadable row (file and line), an empty log, a ``data.min_rating`` without ratings.
    """
    # The log is a stream of unknown length: how many partitions it needs is known when it has been written once.
    counts = ReadCounts()
    spilled = folder / "log.parquet"
    with pq.ParquetWriter(spilled, _SCHEMA) as writer:
        ids, index = _Ids(len(log.items)), ItemIndex(log.items.column("item").combine_chunks())
        for rows in _stream(log):
            writer.write_table(_usable(rows, index, min_rating, counts, ids, log.remarks))
    counts.unreadable = log.remarks.rows_dropped
    counts.read += counts.unreadable
    left = counts.read - counts.unreadable - counts.low_rating - counts.without_rating - counts.without_title
    partitions = max(1, -(-left // partition_rows))
    paths = [spilled] if partitions == 1 else _by_user(spilled, partitions)
    store = SequenceStore(folder, partitions)
    for partition, path in enumerate(paths):
        table = pq.read_table(path)
        counts.busiest = max(counts.busiest, _busiest(table), key=lambda pair: pair[1])
        sequences, repeated = build_sequences(table, repeats)
        if repeated and "repeated" not in counts.examples:
            counts.examples["repeated"] = _example_of_repeat(table, log.items)
        path.unlink()
        counts.repeated += repeated
        store.save(partition, sequences)
    counts.kept = left - counts.repeated
    ids.count(counts, store, min_rating)
    return store, counts


def _stream(log: RawLog) -> Iterator[pa.Table]:
    """The blocks of the log; UserError, with the place, for a row that can't be read."""
    try:
        yield from log.rows()
    except UserError:
        raise
    except (ValueError, pa.ArrowException) as error:
        # a block says what is wrong with it; only the files tell the line
        raise UserError(log.bad_row() or " ".join(str(error).split())[:200]) from error


def _usable(
    rows: pa.Table, index: ItemIndex, min_rating: float | None, counts: ReadCounts, ids: _Ids, remarks: Remarks
) -> pa.Table:
    counts.read += len(rows)
    ids.users.add(rows.column("user"))
    ids.items.add(rows.column("item"))
    _look_at(rows, counts)
    if min_rating is not None:
        rows = _rated(rows, min_rating, counts)
        ids.rated_users.add(rows.column("user"))
    place = index.rows(rows.column("item").combine_chunks(), remarks)
    if place.null_count:
        missing = place.is_null()
        unknown = rows.column("item").filter(missing)
        counts.without_title += place.null_count
        counts.examples.setdefault("without_title", f"item {unknown[0].as_py()!r}")
        ids.without_title.update(unknown.unique().to_pylist())
        rows, place = rows.filter(pc.invert(missing)), place.filter(pc.invert(missing))
    ids.usable[place.to_numpy()] = True
    return pa.table([rows.column("user"), place, rows.column("time")], schema=_SCHEMA)


def _look_at(rows: pa.Table, counts: ReadCounts) -> None:
    """Notes the span of times, and how often each rating is there."""
    for pair in pc.value_counts(rows.column("rating")):
        if (value := pair["values"].as_py()) is not None and len(counts.ratings) <= _MOST_RATINGS:
            counts.ratings[value] = counts.ratings.get(value, 0) + pair["counts"].as_py()
    if len(rows):
        span = pc.min_max(rows.column("time")).as_py()
        first, last = counts.first_time, counts.last_time
        counts.first_time = span["min"] if first is None else min(first, span["min"])
        counts.last_time = span["max"] if last is None else max(last, span["max"])


def _rated(rows: pa.Table, min_rating: float, counts: ReadCounts) -> pa.Table:
    """Rows that are rated ``min_rating`` or more."""
    rating = rows.column("rating")
    if len(rows) and rating.null_count == len(rows) and not counts.low_rating:
        raise UserError("data.min_rating: the log has no ratings (data.columns.rating names none)")
    low = pc.fill_null(pc.less(rating, min_rating), False)
    if (place := pc.index(low, True).as_py()) >= 0:
        user, item = rows.column("user")[place].as_py(), rows.column("item")[place].as_py()
        counts.examples.setdefault("low_rating", f"user {user!r}, item {item!r}: {rating[place].as_py():g}")
    good = rows.filter(pc.fill_null(pc.greater_equal(rating, min_rating), False))
    counts.without_rating += rating.null_count
    counts.low_rating += len(rows) - len(good) - rating.null_count
    return good


def _busiest(table: pa.Table) -> tuple[str, int]:
    """The user with most rows, and how many; nobody where there are none."""
    users = table.column("user").combine_chunks().dictionary_encode()
    rows = np.bincount(users.indices.to_numpy(), minlength=1)
    return (users.dictionary[int(rows.argmax())].as_py(), int(rows.max())) if len(table) else ("", 0)


def _example_of_repeat(table: pa.Table, items: pa.Table) -> str:
    for rows in (table.slice(0, 200_000), table):
        pairs = rows.select(["user", "item"]).group_by(["user", "item"]).aggregate([([], "count_all")])
        often = pairs.filter(pc.greater(pairs.column("count_all"), 1))
        if len(often):
            user, item, times = (often.column(name)[0].as_py() for name in ("user", "item", "count_all"))
            return f"user {user!r} had {items.column('item')[item].as_py()!r} {times} times"
    return ""


def _by_user(spilled: Path, partitions: int) -> list[Path]:
    """Splits the file so that all rows of a user stand in one part, in their order."""
    paths = [spilled.with_name(f"log-{partition:05d}.parquet") for partition in range(partitions)]
    with ExitStack() as stack:
        writers = [stack.enter_context(pq.ParquetWriter(path, _SCHEMA)) for path in paths]
        for batch in pq.ParquetFile(spilled).iter_batches(batch_size=1_000_000):
            of = _partition(batch.column("user"), partitions)
            for partition in np.unique(of):
                writers[partition].write_batch(batch.filter(pa.array(of == partition)))
    spilled.unlink()
    return paths


def _partition(users: pa.Array, partitions: int) -> NDArray[np.int64]:
    encoded = users.dictionary_encode()  # one hash for each distinct user
    return (hashed(encoded.dictionary) % np.uint64(partitions)).astype(np.int64)[encoded.indices.to_numpy()]


def quantiles(store: SequenceStore, shares: tuple[float, float], points: int = 100_000) -> tuple[int, int]:
    """Times below which the given shares of all interactions lie: exact where no partition has more than ``points``
    interactions, else to within 1 / ``points`` of them.

    A partition's times become at most ``points`` of them, each with the number of interactions that it stands for: of
    1 3 5 7 9 with 2 points, 1 with a weight of 4 and 9 with a weight of 1.
    """
    times, weights = [], []
    for partition in range(len(store)):
        ordered = np.sort(store.load(partition).times)
        if not len(ordered):
            continue
        chosen = np.unique(np.linspace(0, len(ordered) - 1, points).astype(np.int64))
        times.append(ordered[chosen])
        weights.append(np.diff(chosen, append=len(ordered)))
    merged, mass = np.concatenate(times), np.concatenate(weights)
    order = np.argsort(merged, kind="stable")
    before = np.cumsum(mass[order]) - mass[order]
    total = mass.sum()
    at = [min(int(np.searchsorted(before, share * total)), len(order) - 1) for share in shares]
    return int(merged[order][at[0]]), int(merged[order][at[1]])
