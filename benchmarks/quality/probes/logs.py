"""A real log, cut for probes: what a ranker is fitted to, and the prompts of three groups of users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from blade_dist.batches import Prompts, Ragged
from blade_dist.catalog.catalog import Catalog

CORE = 5
"""Interactions that an item of MovieLens must have."""
PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}
"""Shares of the users: aligned on, chosen by, reported."""
SPLIT_SEED = 7
Rows = list[NDArray[np.int32]]


@dataclass(frozen=True)
class Log:
    """No item of a prompt's targets is in ``sequences``: neither ranker nor alignment has seen what is held out."""

    catalog: Catalog
    sequences: Ragged
    """A row per user, those of validation and test too: what came before the user's prompts."""
    prompts: dict[str, Prompts]
    """By the part of its user."""


def read_log(path: Path, targets: int, windows: int) -> Log:
    """Of a folder with ``ratings.csv`` and ``movies.csv``, or with ``log.parquet`` and ``items.parquet``.

    Args:
        path: the folder.
        targets: held-out items of a prompt.
        windows: prompts of a user at most, one after another from the end; they take at most half of the user's items.
    """
    table, items = _movielens(path) if (path / "ratings.csv").is_file() else _table(path)
    number = {name: index for index, name in enumerate(items["item"])}
    table = table.assign(number=table["item"].map(number)).sort_values(["user", "time"], kind="stable")
    users, rows = zip(
        *((str(user), part.to_numpy(np.int32)) for user, part in table.groupby("user")["number"]), strict=True
    )
    return cut(list(users), list(rows), items["item"].tolist(), items["groups"].tolist(), targets, windows)


def _movielens(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = pd.read_csv(path / "ratings.csv").rename(columns={"userId": "user", "movieId": "item", "timestamp": "time"})
    table = table[table.groupby("item")["user"].transform("size") >= CORE]
    movies = pd.read_csv(path / "movies.csv").rename(columns={"movieId": "item"})
    movies = movies[movies["item"].isin(set(table["item"]))]
    none = movies["genres"] == "(no genres listed)"
    groups = [[] if bare else names.split("|") for bare, names in zip(none, movies["genres"], strict=True)]
    return table, movies.assign(groups=groups)


def _table(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    items = pd.read_parquet(path / "items.parquet")
    return pd.read_parquet(path / "log.parquet"), items.assign(groups=[list(names) for names in items["groups"]])


def cut(users: list[str], rows: Rows, items: list[str], groups: list[list[str]], targets: int, windows: int) -> Log:
    """Splits users by chance, always alike, and every user's items into a beginning and prompts.

    Args:
        users: their names.
        rows: their items, in order.
        items: ids.
        groups: of each item.
        targets: see :func:`read_log`.
        windows: see :func:`read_log`.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(users))
    bounds = (np.cumsum([0.0, *PARTS.values()]) * len(users)).round().astype(int)
    kept = [len(row) - targets * min(windows, len(row) // 2 // targets) for row in rows]
    sequences = Ragged.of([row[:end] for row, end in zip(rows, kept, strict=True)])
    popularity = np.bincount(sequences.flat, minlength=len(items))
    names = [str(item) for item in items]
    catalog = Catalog.build(names, names, groups, popularity)
    prompts = {}
    for part, low, high in zip(PARTS, bounds, bounds[1:], strict=False):
        asked = [
            (users[user], rows[user][:start], rows[user][start : start + targets])
            for user in sorted(order[low:high])
            for start in range(kept[user], len(rows[user]) - targets + 1, targets)
        ]
        names_of, histories, wanted = zip(*asked, strict=True)
        history = Ragged.of(histories)
        index = np.arange(len(asked))
        prompts[part] = Prompts(index, np.array(names_of, object), history, Ragged.of(wanted), history.distinct())
    return Log(catalog, sequences, prompts)
