"""Users who have had nearly every item, as bots and test accounts have: no list can be written for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory
from blade_dist.data.sequences import SequenceStore, item_counts

MOST = 0.1
"""Share of the users up to which they are left out: where there are more, the catalog is small and they are people."""


@dataclass(frozen=True)
class LeftOut:
    """Who was left out."""

    users: int = 0
    interactions: int = 0
    example: str = ""


def leave_out(
    store: SequenceStore, counts: NDArray[np.int64], k: int, exclude_history: ExcludeHistory
) -> tuple[NDArray[np.int64], LeftOut]:
    """Drops users who have had all but fewer than ``k`` of the items, where no list may hold what a user has had.

    Args:
        store: the sequences; changed where there are such users.
        counts: int64 ``[n]`` interactions with each row of the items table.
        k: items of a list.
        exclude_history: ``lists.exclude_history``.

    Returns:
        The counts without these users; who they were.
    """
    items = int((counts > 0).sum())
    if exclude_history is not True:
        return counts, LeftOut()
    parts = [store.load(partition) for partition in range(len(store))]
    owned = [np.diff(part.new_before[part.items.offsets]) for part in parts]  # different items of each user
    owners = [of > items - k for of in owned]
    found, everybody = (sum(int(part.sum()) for part in owners), sum(map(len, parts)))
    if not found or found > max(MOST * everybody, 1) or found == everybody:
        return counts, LeftOut()
    left, dropped, example = np.zeros_like(counts), 0, ""
    for partition, (part, who, of) in enumerate(zip(parts, owners, owned, strict=True)):
        if who.any():
            user = int(np.flatnonzero(who)[0])
            example = example or f"user {part.users[user].as_py()!r}: {of[user]} of {items}"
            store.save(partition, part.keep(np.repeat(~who, part.items.lengths)))
        kept = store.load(partition)
        dropped += len(part.times) - len(kept.times)
        left += item_counts(kept, len(counts))
    return left, LeftOut(found, dropped, example)
