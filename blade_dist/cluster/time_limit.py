"""When a training shall save and end by itself, because its time is over. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blade_dist.settings import TrainSettings

JOB_END = "SLURM_JOB_END_TIME"
"""Variable in which Slurm says when the job's time limit ends it, in seconds of Unix time."""


@dataclass(frozen=True)
class TimeLimit:
    """The first of those that there are."""

    at: float
    """In seconds of Unix time."""
    by: str
    """Which one it is, for the user's last line."""


def time_limit(train: TrainSettings, began: float, environment: Mapping[str, str]) -> TimeLimit | None:
    """That of a command.

    Args:
        train: the settings.
        began: when the command did, in seconds of Unix time.
        environment: the process's.
    """
    limits = []
    if train.max_seconds is not None:
        limits.append(TimeLimit(began + train.max_seconds, f"train.max_seconds = {train.max_seconds:g}"))
    if (end := environment.get(JOB_END, "")).isdigit():
        by = f"the end of the Slurm job, train.checkpoint_before = {train.checkpoint_before:g} s ahead of it"
        limits.append(TimeLimit(int(end) - train.checkpoint_before, by))
    return min(limits, key=lambda limit: limit.at, default=None)
