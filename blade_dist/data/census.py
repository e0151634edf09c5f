"""How many users and items are left at each stage, and which setting would keep more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blade_dist.data.assemble import SplitName
from blade_dist.data.partition import ReadCounts
from blade_dist.data.remarks import shown
from blade_dist.data.sequences import SequenceStore, k_core
from blade_dist.data.split import leave_last, windows
from blade_dist.settings import DataSettings

FEW = 0.1
"""Share of the users who may teach nothing before that is said."""


def wasted(data: DataSettings, users: Mapping[str, int], freed: int) -> list[str]:
    """Lines about users of whom nothing is learned, where these are more than a tenth.

    Args:
        data: the settings that the data were made with.
        users: the card's counts of users.
        freed: users with a training sequence and no prompt who would have one with ``data.min_history: 1``.
    """
    read, taught, asked = (users[name] for name in ("read", "with_training_sequence", "with_training_prompt"))
    lines = []
    if read - taught > FEW * read:
        kept, setting = max(_remedies(data, users))
        more = f"{setting} would keep up to {kept} of them; " if kept > 0 else ""
        lines.append(
            f"{read - taught} of {read} users teach nothing, as no two items of theirs are left to train on: {more}"
            f"{users['with_one_item']} have one item"
        )
    if taught - asked > FEW * taught:
        more = f"data.min_history=1 would give {freed} of them one" if freed else "their training part is too short"
        lines.append(
            f"{taught - asked} of {taught} users with a training sequence have no training prompt, and the alignment "
            f"learns nothing of them: {more}"
        )
    return lines


def _remedies(data: DataSettings, users: Mapping[str, int]) -> list[tuple[int, str]]:
    """How many users each change would keep at most, and the change."""
    several = users["left"] + users["dropped_by_k_core"] - users["with_one_item"]
    taught = users["with_training_sequence"]
    remedies = [
        (users["dropped_by_min_rating"], "data.min_rating=null"),
        (users["dropped_without_title"], "data.items with a title for every item"),
    ]
    if data.split == "global_time" and data.splits is None:
        remedies.append((min(users["left"], several) - taught, "data.split=leave_last"))
    if data.core:
        remedies.append((min(several - taught, users["dropped_by_k_core"]), "data.k_core=0"))
    return remedies


def core_choices(data: DataSettings, raw: SequenceStore, left: int, n_items: int, scratch: Path) -> list[str]:
    """A line about other values of ``data.k_core``, counted by trying them, where more than a tenth of the users go.

    Args:
        data: the settings that the data were made with.
        raw: the sequences before it.
        left: users after it.
        n_items: rows of the items table.
        scratch: a folder for the trials.
    """
    before = sum(len(raw.load(part)) for part in range(len(raw)))
    if not data.core or before - left <= FEW * before:
        return []
    kept = {}
    for k in sorted({0, 2, 3, data.core // 2} - {1}, reverse=True):
        if k < data.core:
            trial = raw.copied(scratch / f"core-{k}")
            k_core(trial, k, n_items)
            kept[k] = sum(len(trial.load(part)) for part in range(len(trial)))
    better = ", ".join(f"data.k_core={k} keeps {users:,}" for k, users in kept.items() if users > left)
    return [f"data.k_core={data.core} keeps {left:,} of {before:,} users; {better}"] if better else []


def short_windows(data: DataSettings, lengths: NDArray[np.int64]) -> list[str]:
    """A line where most users are too short for ``data.targets`` items to test and as many to validate."""
    if data.split != "leave_last" or data.splits is not None or not len(lengths):
        return []
    spare = lengths - max(data.min_history, 2)
    fits = {targets: int((spare >= 2 * targets).sum()) for targets in range(1, data.targets + 1)}
    if 2 * fits[data.targets] >= len(lengths) or data.targets == 1:
        return []
    best = max((targets for targets in fits if 10 * fits[targets] >= 8 * len(lengths)), default=1)
    return [
        (
            f"data.targets={data.targets} fits {fits[data.targets]:,} of {len(lengths):,} users, the others hold out "
            f"fewer; data.targets={best} fits {fits[best]:,}"
        )
    ]


def few_prompts(data: DataSettings, ends: NDArray[np.int64], prompts: int, visited: int) -> list[str]:
    """A line where a run would visit every training prompt often and there could be more.

    Args:
        data: the settings that the data were made with.
        ends: ``[U]`` items of each user's training part.
        prompts: training prompts.
        visited: prompts that a run visits.
    """
    every = len(windows(ends, data.targets, data.min_history, latest=0)) if data.windows else prompts
    if visited < 4 * prompts or 2 * every < 3 * prompts:
        return []
    return [
        (
            f"data.windows={data.windows} gives {prompts:,} training prompts; a run visits each "
            f"{visited / max(prompts, 1):.0f} times (train.steps); data.windows=0 gives {every:,}"
        )
    ]


def ratings_hints(data: DataSettings, read: ReadCounts) -> list[str]:
    """Lines about a ``data.min_rating`` that drops most, and about ratings of 0."""
    lines, least = [], data.min_rating
    if least is not None and 2 * (read.low_rating + read.without_rating) > read.read and read.ratings:
        lower = max((value for value in read.ratings if value < least), default=None)
        kept = sum(count for value, count in read.ratings.items() if lower is not None and value >= lower)
        remedy = f"; data.min_rating={lower:g} keeps {kept:,}" if lower is not None else ""
        dropped = read.low_rating + read.without_rating
        lines.append(f"data.min_rating={least:g} drops {dropped:,} of {read.read:,} rows{remedy}")
    if zero := read.ratings.get(0.0, 0):
        what = "are dropped by data.min_rating" if least is not None and least > 0 else "are kept"
        lines.append(f"{zero:,} rows are rated 0 and {what}; in some logs 0 means that there is no rating")
    return lines


def items_hints(read: ReadCounts) -> list[str]:
    """A line where more than a tenth of the rows go with items that ``data.items`` lacks."""
    if read.without_title <= FEW * read.read:
        return []
    there = f"data.items has a title for {read.items - read.items_without_title:,} of the log's {read.items:,} items"
    gone = f"{read.without_title:,} of {read.read:,} rows go with the others"
    return [f"{there}, and {gone}: is it whole, and of this log?"]


def one_user_hints(read: ReadCounts) -> list[str]:
    """A line where one user of many has more than a tenth of all rows."""
    user, rows = read.busiest
    if read.users < 2 / FEW or rows <= FEW * read.read:
        return []
    return [
        f"user {shown(user)} has {rows:,} of {read.read:,} rows: if it stands for nobody, add it to data.null_words"
    ]


def freed_by_min_history(data: DataSettings, lengths: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """Users with a training sequence and no prompt who would have a prompt with ``data.min_history: 1``.

    Args:
        data: the settings that the data were made with.
        lengths: ``[U]`` items of each user.
        ends: ``[U]`` items of the user's training part.
    """
    if data.split == "leave_last" and data.splits is None:
        freed = leave_last(lengths, data.targets, 1, data.test_windows).train_end
    else:
        freed = ends
    now, then = (
        np.isin(np.arange(len(lengths)), windows(part, data.targets, least, latest=1).user)
        for part, least in ((ends, data.min_history), (freed, 1))
    )
    return int(((ends >= 2) & ~now & then).sum())


def describe_users(
    read: ReadCounts, left: int, taught: int, asked: Mapping[SplitName, int], with_all_items: int = 0
) -> dict[str, int]:
    """Users at each stage.

    Args:
        read: what became of the raw log.
        left: users after every filter.
        taught: users with two items or more to train on.
        asked: users with a prompt in each split.
        with_all_items: users who were left out as they have had nearly all items.
    """
    return {
        "read": read.users,
        "dropped_by_min_rating": read.users_low_rating,
        "dropped_without_title": read.users_without_title,
        "with_one_item": read.users_with_one_item,
        "dropped_by_k_core": read.users - read.users_low_rating - read.users_without_title - left - with_all_items,
        "dropped_with_all_items": with_all_items,
        "left": left,
        "with_training_sequence": taught,
        "with_training_prompt": asked["train"],
        "validated": asked["validation"],
        "tested": asked["test"],
    }
