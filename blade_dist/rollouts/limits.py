"""How long an engine may be waited for, by what it was asked for; and the line that says that it was too long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from blade_dist.rollouts.health import Life
from blade_dist.settings import RolloutSettings

Task = Literal["start", "lists", "push", "probe", "sleep", "wake"]

_SETTINGS: dict[Task, str] = {
    "start": "ready_timeout_s",
    "lists": "request_timeout_s",
    "probe": "request_timeout_s",
    "push": "push_timeout_s",
    "sleep": "sleep_timeout_s",
    "wake": "sleep_timeout_s",
}


def limit_s(settings: RolloutSettings, task: Task) -> float:
    """Seconds that an engine may be silent."""
    seconds: float = getattr(settings, _SETTINGS[task])
    return seconds


def limit_name(task: Task) -> str:
    """The setting's full name."""
    return f"rollout.{_SETTINGS[task]}"


@dataclass(frozen=True)
class Loss:
    """An engine that gave no answer, as the one reports it that waited."""

    life: Life
    waiter: str
    """Who waited, ``the pipeline`` say."""
    task: Task
    """For what."""
    since: float
    """Since when, in seconds of Unix time."""
    silent: bool
    """Whether it did not answer in time; else its process died."""

    @property
    def failure(self) -> str:
        """What happened, in words that are the same when it happens again."""
        return f"{'was silent' if self.silent else 'died'} while it was asked for {self.task}"

    def line(self, settings: RolloutSettings) -> str:
        """Who waited for whom, for what, since when, and how it ended."""
        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        how = f"no answer within {limit_name(self.task)} = {limit_s(settings, self.task):g} s" if self.silent else ""
        return (
            f"engine {self.life.place} (process {self.life.number}): {self.waiter} waited for its {self.task} since "
            f"{since}; {how or 'the process died'}"
        )
