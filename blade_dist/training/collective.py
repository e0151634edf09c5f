"""What one learner rank does for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch.distributed as dist

T = TypeVar("T")
Group: TypeAlias = dist.ProcessGroup | None
"""None: the one of all ranks, which the training's own thread uses."""


def own_rank() -> int:
    """This process's number; 0 where there is no process group."""
    return dist.get_rank() if dist.is_initialized() else 0


MODEL, ENGINES = "loading the model", "loading the engines"
"""What a rank is at before it can make a step, for :func:`tell`."""


def tell(tracker: Any, doing: str) -> None:
    """Rank 0 tells the tracker what is done before there is a step to show."""
    if own_rank() == 0:
        tracker.at.remote(doing)


def of_threads() -> Group:
    """A second group of all ranks, for calls from other threads than the training's (collective).

    Calls of one group must come in the same order on all ranks, which two threads do not keep.
    """
    return dist.new_group(backend="gloo") if dist.is_initialized() else None


def barrier(group: Group = None) -> None:
    """Returns when all ranks have come here."""
    if _several(group):
        dist.barrier(group)


def from_all(value: T, group: Group = None) -> list[T]:
    """Every rank's value, by rank, on every rank (collective); pickled, as by :func:`from_first`."""
    if not _several(group):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group)
    return values


def from_first(compute: Callable[[], T], group: Group = None) -> T:
    """What rank 0 computes, on every rank (collective); the other ranks compute nothing and wait.

    The value is pickled, so it must hold no object reference of Ray's: torch would carry the bytes, but Ray would not
    count the copy, and could free the object before a rank reads it.
    """
    if not _several(group):
        return compute()
    values = [compute() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(values, src=0, group=group)
    return values[0]  # type: ignore[return-value]


def _several(group: Group) -> bool:
    """Whether other ranks are to be asked: also those of a group that has been destroyed, which is an error then."""
    return group is not None or dist.is_initialized()
