"""Parts of the test set, each as what is left of every prompt's held-out items: an empty row is a prompt outside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from blade_dist.batches import Prompts, Ragged, offsets_of
from blade_dist.catalog.catalog import Catalog
from blade_dist.data.bundle import DataBundle
from blade_dist.rewards.item_features import tail_items
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import ndcg

SESSION_S = 30 * 60
"""Items of one session: less than this time between one and the next."""
FEW = 30
"""Items: a user with fewer of them in the training part is as cold as it gets where every user has a history."""
CUT = 5
"""Segments are measured by NDCG at this cut-off."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Log:
    """A MovieLens log, cut to the items of a catalog."""

    times: dict[tuple[str, int], int]
    """(user, catalog index) to seconds; a user rates an item once."""
    lengths: dict[str, int]
    """User to number of items."""


def read_log(folder: Path, catalog: Catalog) -> Log:
    """``ratings.csv`` of the folder."""
    rows = pd.read_csv(folder / "ratings.csv", dtype={"userId": str, "movieId": str})
    index = {item: number for number, item in enumerate(catalog.item_ids)}
    rows = rows[rows["movieId"].isin(index)]
    keys = zip(rows["userId"], rows["movieId"].map(index), strict=True)
    times = dict(zip(keys, rows["timestamp"], strict=True))
    return Log(times, rows["userId"].value_counts().to_dict())


def make_segments(data: DataBundle, log: Log) -> dict[str, Ragged]:
    """Every segment by name: a row of targets for each test prompt."""
    prompts = data.test.rows(np.arange(len(data.test)))
    validation = data.validation.rows(np.arange(len(data.validation)))
    before = items_before(prompts, log.lengths)
    trained = trained_items(prompts, before, validation)
    tail = tail_items(data.catalog)[prompts.targets.flat]
    same = same_session(prompts, log.times)
    long = _by_prompt(before >= np.median(before), prompts)
    return {
        "head items": keep(prompts.targets, ~tail),
        "tail items": keep(prompts.targets, tail),
        "short history": keep(prompts.targets, ~long),
        "long history": keep(prompts.targets, long),
        f"cold: under {FEW} training items": keep(prompts.targets, _by_prompt(trained < FEW, prompts)),
        "same session": keep(prompts.targets, same),
        "later": keep(prompts.targets, ~same),
    }


def segment_scores(lists: Lists, targets: Ragged) -> Scores:
    """``[n]`` NDCG of the lists with these targets alone; NaN outside the segment."""
    part = Lists(lists.items, targets, lists.history, lists.catalog, lists.users)
    return np.where(targets.lengths > 0, ndcg(part, CUT), np.nan)


def keep(targets: Ragged, mask: NDArray[np.bool_]) -> Ragged:
    """Only the targets (of ``targets.flat``) where the mask holds; every row stays."""
    return Ragged(targets.flat[mask], offsets_of(mask)[targets.offsets])


def items_before(prompts: Prompts, lengths: dict[str, int]) -> NDArray[np.int64]:
    """``[n]`` items of the user before the prompt's first target, however many the prompt shows.

    A user's windows come one after another and end with the user's last item. So they are read off from the end: of 10
    items and windows of 2, 2, the last window has 8 before it, the one before that 6.
    """
    left = dict(lengths)
    before = np.zeros(len(prompts), dtype=np.int64)
    for row in reversed(range(len(prompts))):
        left[prompts.user[row]] -= len(prompts.targets[row])
        before[row] = left[prompts.user[row]]
    return before


def trained_items(prompts: Prompts, before: NDArray[np.int64], validation: Prompts) -> NDArray[np.int64]:
    """``[n]`` items of the user's training part: those before the first test window and the validation window."""
    held = dict(zip(validation.user, validation.targets.lengths, strict=True))
    first: dict[str, int] = {}
    for user, items in zip(prompts.user, before, strict=True):
        first.setdefault(user, int(items) - int(held.get(user, 0)))
    return np.array([first[user] for user in prompts.user], dtype=np.int64)


def same_session(prompts: Prompts, times: dict[tuple[str, int], int]) -> NDArray[np.bool_]:
    """For each of ``targets.flat``: whether no gap from the history's last item to it reaches :data:`SESSION_S`."""
    rows = []
    for row, user in enumerate(prompts.user):
        # one long gap ends the session: what comes after it is outside, however close together
        chain = [prompts.history[row][-1], *prompts.targets[row]]
        gaps = np.diff([times[user, int(item)] for item in chain])
        rows.append(np.logical_and.accumulate(gaps < SESSION_S))
    return np.concatenate(rows)


def _by_prompt(mask: NDArray[np.bool_], prompts: Prompts) -> NDArray[np.bool_]:
    return np.repeat(mask, prompts.targets.lengths)
