"""A stream of interactions to partitions of users, so that a log larger than memory is handled in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blade_dist.data.distinct import DistinctIds, hashed
from blade_dist.data.rawlog import RawLog
from blade_dist.data.sequences import Repeats, SequenceStore, build_sequences
from blade_dist.errors import UserError

_SCHEMA = pa.schema([("user", pa.string()), ("item", pa.int32()), ("time", pa.int64())])


@dataclass
class ReadCounts:
    """What became of the raw log."""

    read: int = 0
    """Interactions in the log."""
    low_rating: int = 0
    """Of these, rated below ``data.min_rating``."""
    without_title: int = 0
    """Of the rest, with an item that has no title."""
    items_without_title: int = 0
    """Items of these."""
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
        ids = _Ids(len(log.items))
        for rows in _stream(log):
            writer.write_table(_usable(rows, log.items, min_rating, counts, ids))
    left = counts.read - counts.low_rating - counts.without_title
    partitions = max(1, -(-left // partition_rows))
    paths = [spilled] if partitions == 1 else _by_user(spilled, partitions)
    store = SequenceStore(folder, partitions)
    for partition, path in enumerate(paths):
        sequences, repeated = build_sequences(pq.read_table(path), repeats)
        path.unlink()
        counts.repeated += repeated
        store.save(partition, sequences)
    counts.kept = left - counts.repeated
    ids.count(counts, store, min_rating)
    return store, counts


def _stream(log: RawLog) -> Iterator[pa.Table]:
    try:
        yield from log.rows.iter_batches(batch_size=None, batch_format="pyarrow")
    except Exception as error:
        # Ray wraps what a reader raises; only the files tell the line.
        problem = log.bad_row()
        if problem is None:
            raise
        raise UserError(problem) from error


def _usable(rows: pa.Table, items: pa.Table, min_rating: float | None, counts: ReadCounts, ids: _Ids) -> pa.Table:
    counts.read += len(rows)
    ids.users.add(rows.column("user"))
    ids.items.add(rows.column("item"))
    if min_rating is not None:
        if rows.column("rating").null_count:
            raise UserError("data.min_rating: the log has no ratings (data.columns.rating names none)")
        good = rows.filter(pc.greater_equal(rows.column("rating"), min_rating))
        counts.low_rating += len(rows) - len(good)
        rows = good
        ids.rated_users.add(rows.column("user"))
    index = pc.index_in(rows.column("item"), value_set=items.column("item"))
    if index.null_count:
        missing = pc.is_null(index)
        counts.without_title += index.null_count
        ids.without_title.update(rows.column("item").filter(missing).unique().to_pylist())
        rows, index = rows.filter(pc.invert(missing)), index.filter(pc.invert(missing))
    ids.usable[index.to_numpy()] = True
    return pa.table([rows.column("user"), index, rows.column("time")], schema=_SCHEMA)


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
