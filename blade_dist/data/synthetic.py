"""A generated log whose truth is known: narrow tastes, popular items, and items that follow from one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.data.rawlog import RawLog
from blade_dist.data.seeds import stable_seed
from blade_dist.data.table import read_table_log
from blade_dist.settings import ColumnSettings, DataSettings, SyntheticSettings
from blade_dist.store.arrow import ragged_to_arrow, write_table

SUCCESSORS = np.array([0.6, 0.3, 0.1])
"""How often each of an item's successors follows it."""
_CELLS = 4_000_000
"""Users times items that are drawn from at once."""
_DAY = 86_400


def read_synthetic(settings: DataSettings, seed: int, folder: Path) -> RawLog:
    """Writes ``synthetic/{log,items}.parquet`` and the truth (``tastes.arrow``: user, taste over the groups;
    ``successors.arrow``: item, its popularity, the items that follow it, likeliest first); reads the former as a
    table."""
    given, target = settings.synthetic, folder / "synthetic"
    target.mkdir(parents=True)
    rng = np.random.default_rng(stable_seed(seed, "synthetic"))
    main = rng.permutation(np.arange(given.items) % given.groups)
    membership = _membership(rng, main, given.groups)
    popularity = (1.0 + rng.permutation(given.items)) ** -given.popularity_skew
    tastes = rng.dirichlet(np.full(given.groups, given.taste_concentration), given.users)
    successors = _successors(rng, popularity)
    log = _interactions(rng, given, tastes, membership * popularity[:, None], successors)
    users, ids = _names("u", given.users), _names("i", given.items)
    pq.write_table(
        log.set_column(0, "user", users.take(log["user"])).set_column(1, "item", ids.take(log["item"])),
        target / "log.parquet",
    )
    groups = Ragged.of([np.flatnonzero(row) for row in membership])
    names = pa.ListArray.from_arrays(
        groups.offsets.astype(np.int32), _names("group ", given.groups).take(pa.array(groups.flat))
    )
    items = pa.table({"item": ids, "title": _titles(rng, main, given.groups), "groups": names})
    pq.write_table(items, target / "items.parquet")
    taste_rows = Ragged(tastes.reshape(-1), np.arange(given.users + 1) * given.groups)
    write_table(pa.table({"user": users, "taste": ragged_to_arrow(taste_rows)}), target / "tastes.arrow")
    follow = Ragged.of(list(successors))
    items_truth = {"item": ids, "popularity": popularity, "successors": ragged_to_arrow(follow)}
    write_table(pa.table(items_truth), target / "successors.arrow")
    as_table = {"path": target / "log.parquet", "items": target / "items.parquet"}
    columns = ColumnSettings(groups="groups")
    return read_table_log(settings.model_copy(update={**as_table, "columns": columns}), seed, folder)


def _names(prefix: str, count: int) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in range(count)], pa.string())


def _membership(rng: np.random.Generator, main: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """``[items, groups]`` of 0 and 1: the main group, and for some items a second one."""
    second = np.where(rng.random(len(main)) < 0.3, rng.integers(groups, size=len(main)), main)
    member = np.zeros((len(main), groups))
    member[np.arange(len(main)), main] = 1
    member[np.arange(len(main)), second] = 1
    return member


def _successors(rng: np.random.Generator, popularity: NDArray[np.floating]) -> NDArray[np.int64]:
    """``[items, <= 3]`` different items that follow each item, drawn by popularity."""
    count = min(len(SUCCESSORS), len(popularity) - 1)
    chances = popularity / popularity.sum()
    rows = []
    for item in range(len(popularity)):
        drawn = rng.choice(len(popularity), count + 1, replace=False, p=chances)
        rows.append(drawn[drawn != item][:count])
    return np.array(rows, dtype=np.int64).reshape(len(popularity), count)


def _interactions(
    rng: np.random.Generator,
    given: SyntheticSettings,
    tastes: NDArray[np.float64],
    attraction: NDArray[np.float64],
    successors: NDArray[np.int64],
) -> pa.Table:
    """user and item as numbers, time in seconds; sorted by time as a log is. No item twice for a user."""
    lengths = np.clip(rng.poisson(given.interactions, given.users), 1, given.items)
    parts = []
    block = max(1, _CELLS // given.items)
    for first in range(0, given.users, block):
        rows = np.arange(first, min(first + block, given.users))
        chances = tastes[rows] @ attraction.T
        items = _walks(rng, chances, lengths[rows], successors, given.sequence_strength)
        kept = np.arange(items.shape[1]) < lengths[rows, None]
        start = rng.integers(0, 700 * _DAY, (len(rows), 1))
        times = start + np.cumsum(rng.integers(1, 2 * _DAY, items.shape), axis=1)
        parts.append((np.repeat(rows, lengths[rows]), items[kept], times[kept]))
    user, item, time = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(time, kind="stable")
    return pa.table({"user": user[order], "item": item[order], "time": time[order]})


def _walks(
    rng: np.random.Generator,
    chances: NDArray[np.float64],
    lengths: NDArray[np.int64],
    successors: NDArray[np.int64],
    strength: float,
) -> NDArray[np.int64]:
    """``[users, longest]`` items: a successor of the item before with chance ``strength``, or else one by taste."""
    users = np.arange(len(chances))
    # Chances of the items that a user has not had yet; 0 for the others.
    left = chances + chances.max() * 1e-12  # so that an item is left even for the narrowest taste
    walks = np.zeros((len(chances), int(lengths.max())), dtype=np.int64)
    weights = SUCCESSORS[: successors.shape[1]]
    for step in range(walks.shape[1]):
        follows = np.zeros(len(users), dtype=bool)
        if step:
            options = successors[walks[:, step - 1]]
            fresh = weights * (left[users[:, None], options] > 0)
            follows = (rng.random(len(users)) < strength) & fresh.any(axis=1)
            walks[follows, step] = options[follows, _draw(rng, fresh[follows])]
        walks[~follows, step] = _draw(rng, left[~follows])
        left[users, walks[:, step]] = 0
    return walks


def _draw(rng: np.random.Generator, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """One column per row, by weight."""
    totals = np.cumsum(weights, axis=1)
    points = rng.random((len(weights), 1)) * totals[:, -1:]
    return (totals <= points).sum(axis=1)


def _titles(rng: np.random.Generator, main: NDArray[np.int64], groups: int) -> list[str]:
    """Two short words each, all different; the first word belongs to the item's main group."""
    size = int(np.ceil(np.sqrt(len(main)))) + 1
    words = _words(rng, size * (groups + 1))
    titles = [""] * len(main)
    for group in range(groups):
        members = np.flatnonzero(main == group)
        for item, pair in zip(members, rng.permutation(size * size)[: len(members)], strict=True):
            titles[item] = f"{words[group * size + pair // size]} {words[groups * size + pair % size]}"
    return titles


def _words(rng: np.random.Generator, count: int) -> list[str]:
    """Different words of as few syllables as it takes."""
    syllables = [first + second for first in "bdfgklmnprstvwz" for second in "aeiou"]
    length = 2
    while len(syllables) ** length < 2 * count:
        length += 1
    picked = rng.choice(len(syllables) ** length, count, replace=False)
    return [
        "".join(syllables[number // len(syllables) ** place % len(syllables)] for place in range(length))
        for number in picked
    ]
