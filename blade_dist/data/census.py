"""How many users and items are left at each stage, and which setting would keep more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from blade_dist.data.assemble import SplitName
from blade_dist.data.partition import ReadCounts
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


def describe_users(read: ReadCounts, left: int, taught: int, asked: Mapping[SplitName, int]) -> dict[str, int]:
    """Users at each stage.

    Args:
        read: what became of the raw log.
        left: users after every filter.
        taught: users with two items or more to train on.
        asked: users with a prompt in each split.
    """
    return {
        "read": read.users,
        "dropped_by_min_rating": read.users_low_rating,
        "dropped_without_title": read.users_without_title,
        "with_one_item": read.users_with_one_item,
        "dropped_by_k_core": read.users - read.users_low_rating - read.users_without_title - left,
        "left": left,
        "with_training_sequence": taught,
        "with_training_prompt": asked["train"],
        "validated": asked["validation"],
        "tested": asked["test"],
    }
