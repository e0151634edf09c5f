"""Rewards that know the truth of a synthetic catalog: NDCG in expectation, under the user's known taste.

They never see a held-out item, so that a search which selects by them could serve. Ray's workers import them by name,
``benchmarks.quality.ground_truth:expected_ndcg``; they read the run's data in :data:`DATA_FOLDER`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import DATA_FOLDER
from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.data.synthetic import SUCCESSORS
from blade_dist.rewards.lists import Lists
from blade_dist.store.arrow import arrow_to_ragged, read_table

OUTLIERS, OUTLIER_SIZE = 0.03, 20.0
"""How often a measurement is wrong, and by how much, up or down."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """How the log was generated, for the items that the catalog kept."""

    tastes: dict[str, Scores]
    """User to ``[groups]``."""
    attraction: Scores
    """``[I, groups]``: popularity in the item's groups."""
    successors: Scores
    """``[I, I]``: chance that the column follows the row, when a successor follows."""
    strength: float
    """Share of interactions that are successors."""

    def next_item(self, user: str, history: NDArray[np.int32]) -> Scores:
        """``[I]`` chance of each item to be the user's next one; 0 for the history's items."""
        left = self.attraction @ self.tastes[user]
        left[history] = 0
        taste = left / left.sum()
        follow = self.successors[history[-1]].copy() if len(history) else np.zeros(len(left))
        follow[history] = 0
        if not follow.any():
            return taste
        return self.strength * follow / follow.sum() + (1 - self.strength) * taste


def load_truth(run: Path, catalog: Catalog) -> Truth:
    """Reads what the data stage wrote beside the log of a synthetic run."""
    folder = run / "data" / "synthetic"
    people, items = (read_table(folder / f"{name}.arrow") for name in ("tastes", "successors"))
    tastes = arrow_to_ragged(people["taste"])
    names = {name: number for number, name in enumerate(items["item"].to_pylist())}
    kept = np.array([names[item] for item in catalog.item_ids])
    groups = [int(name.split()[-1]) for name in catalog.group_names]
    member = np.zeros((len(catalog), len(tastes[0])))
    owners = np.repeat(np.arange(len(catalog)), catalog.groups.lengths)
    member[owners, np.array(groups)[catalog.groups.flat]] = 1
    given = json.loads((run / "data" / "card.json").read_text())["settings"]["data"]["synthetic"]
    return Truth(
        {user: tastes[row] for row, user in enumerate(people["user"].to_pylist())},
        member * items["popularity"].to_numpy()[kept, None],
        _follow(arrow_to_ragged(items["successors"]), kept),
        float(given["sequence_strength"]),
    )


def _follow(successors: Ragged, kept: NDArray[np.int64]) -> Scores:
    place = np.full(len(successors), -1)
    place[kept] = np.arange(len(kept))
    chances = np.zeros((len(kept), len(kept)))
    for row, item in enumerate(kept):
        for next_item, chance in zip(place[successors[item]], SUCCESSORS, strict=False):
            if next_item >= 0:
                chances[row, next_item] = chance
    return chances


def expected_dcg(gains: Scores, items: NDArray[np.int32]) -> Scores:
    """``sum_i gain(item i) / log2(i + 1)`` of each list, ``[n]``; a miss gains nothing.

    Args:
        gains: ``[n, I]``.
        items: ``[n, K]``.
    """
    gained = np.where(items == MISS, 0.0, np.take_along_axis(gains, np.maximum(items, 0).astype(np.int64), axis=1))
    return (gained / np.log2(np.arange(2, items.shape[1] + 2))).sum(axis=1)


def expected_ndcg(lists: Lists) -> Scores:
    """Expected DCG under the known taste, over that of the K likeliest items, ``[n]``."""
    gains, k = _gains(lists), lists.items.shape[1]
    best = -np.sort(-gains, axis=1)[:, :k] @ (1 / np.log2(np.arange(2, k + 2)))
    return expected_dcg(gains, lists.items) / np.where(best > 0, best, 1.0)


def likeliest_is_in(lists: Lists) -> Scores:
    """1 where the list holds the item that is likeliest to be next, else 0: two levels, ``[n]``."""
    return np.asarray((lists.items == _gains(lists).argmax(axis=1)[:, None]).any(axis=1), dtype=np.float64)


def outliers(lists: Lists) -> Scores:
    """Rare errors of the measurement, 0 else, ``[n]``: each list's is drawn anew whenever it is scored."""
    rng = np.random.default_rng()
    hit = rng.random(len(lists)) < OUTLIERS
    return np.where(hit, OUTLIER_SIZE * rng.choice([-1.0, 1.0], len(lists)), 0.0)


def _gains(lists: Lists) -> Scores:
    """``[n, I]`` chance of each item to be the next one of the list's user; 0 for users that nobody generated."""
    truth = _truth(lists.catalog)
    users = np.zeros(len(lists), str) if lists.users is None else lists.users
    gained = np.zeros((len(lists), len(lists.catalog)))
    known: dict[tuple[str, bytes], Scores] = {}
    for row in (row for row, user in enumerate(users) if user in truth.tastes):
        key = (users[row], lists.history[row].tobytes())
        if key not in known:
            known[key] = truth.next_item(users[row], lists.history[row])
        gained[row] = known[key]
    return gained


@cache
def _truth(catalog: Catalog) -> Truth:
    return load_truth(Path(os.environ[DATA_FOLDER]), catalog)
