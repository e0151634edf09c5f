"""When a command shall save and end by itself, because its time is over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from blade_dist.settings import TrainSettings

JOB_END = "SLURM_JOB_END_TIME"
"""Variable in which Slurm says when the job's time limit ends it, in seconds of Unix time."""
MOST = 0.1
"""Part of the time that there was at the beginning that is kept free before a job's end, at most."""


@dataclass(frozen=True)
class TimeLimit:
    """The first of those that there are."""

    at: float
    """In seconds of Unix time."""
    by: str
    """Which one it is, in words."""


def time_limit(train: TrainSettings, began: float, environment: Mapping[str, str]) -> TimeLimit | None:
    """That of a command.

    Args:
        train: the settings.
        began: when the command did, in seconds of Unix time.
        environment: the process's. A job's end that had come before is of a job that is over.
    """
    limits = []
    if train.max_seconds is not None:
        limits.append(TimeLimit(began + train.max_seconds, f"train.max_seconds = {train.max_seconds:g} are over"))
    end = environment.get(JOB_END, "")
    if end.isdigit() and (left := int(end) - began) > 0:
        before = min(train.checkpoint_before, MOST * left)
        limits.append(TimeLimit(int(end) - before, f"the Slurm job ends in {before:.0f} s (train.checkpoint_before)"))
    return min(limits, key=lambda limit: limit.at, default=None)


def end_in_time(train: TrainSettings, say: Callable[[str], object]) -> None:
    """From here on this process gets a SIGTERM when its time is over; ``say`` is told why."""
    limit = time_limit(train, psutil.Process().create_time(), os.environ)
    if limit is None:
        return

    def over() -> None:
        say(limit.by)
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(max(0.0, limit.at - time.time()), over)
    timer.daemon = True
    timer.start()
