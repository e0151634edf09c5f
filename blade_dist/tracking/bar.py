"""How far a stage is: a bar with the time left in a terminal, a plain line now and then where there is none."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner

from blade_dist.tracking.lasting import beneath
from blade_dist.tracking.say import say

WIDTH = 20
"""Characters of the bar itself."""

LINE_EVERY_S = 10.0
"""Shortest time between two plain lines."""

CLOCK = "0:00:00"
"""What the time left looks like."""

WINDOW_S = 3600.0
"""Of the last progress by which the time left is reckoned: a step of a large model takes minutes."""


class Bar:
    """A context manager: the bar stands from its beginning to its end."""

    def __init__(
        self, stage: str, total: float, unit: str, console: Console, doing: str = "", every: float = LINE_EVERY_S
    ) -> None:
        """
        Args:
            stage: what the lines begin with.
            total: how much there is to do.
            unit: of it, in the plural.
            console: where it is shown.
            doing: what is done first.
            every: seconds between two plain lines.
        """
        self._stage, self._total, self._unit, self._console, self._every = stage, total, unit, console, every
        self._done, self._doing = 0.0, doing
        self._began = self._said = time.monotonic()
        self._before: float | None = None
        self._bar = _progress(console) if console.is_terminal else None
        self._task = self._bar.add_task(stage, total=total, doing=self.cut(doing)) if self._bar else None

    def __enter__(self) -> Bar:
        self._began = self._said = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, done: float, doing: str = "") -> None:
        """So much is done; ``doing``: what is being done now, else as before."""
        if self._before is None:
            self._before = done  # of an earlier sitting: says nothing about the speed
        self._done, self._doing = done, doing or self._doing
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, doing=self.cut(self._doing))
        elif time.monotonic() - self._said >= self._every:
            say(self._console, self._line())
            self._said = time.monotonic()

    def say(self, doing: str) -> None:
        """This is being done; nothing more is done yet."""
        self._doing = doing
        if self._bar and self._task is not None:
            self._bar.update(self._task, doing=self.cut(doing))

    def more(self, done: float) -> None:
        """So much more is done."""
        self.at(self._done + done)

    @property
    def room(self) -> int:
        """Characters of the terminal's line that the bar and its numbers leave."""
        numbers = f"{self._stage} {self._total:.0f}/{self._total:.0f} {CLOCK} "
        return max(0, self._console.width - WIDTH - 1 - len(numbers))

    def cut(self, text: str) -> str:
        """What of a text has room beside the bar."""
        return text if len(text) <= self.room else text[: max(0, self.room - 1)] + "…"

    def _line(self) -> str:
        """``prior: 256 of 1,000 prompts, about 1:20 left``."""
        fresh = self._done - (self._before or 0.0)
        spent = time.monotonic() - self._began
        left = f", about {clock(spent * (self._total - self._done) / fresh)} left" if fresh > 0 else ""
        doing = f" ({self._doing})" if self._doing else ""
        return f"{self._stage}: {self._done:,.0f} of {self._total:,.0f} {self._unit}{left}{doing}"


RAY, PROGRAM = "starting Ray", "loading the program"
"""What takes seconds before a stage knows how much there is to do."""


def waiting(console: Console, what: str) -> AbstractContextManager[object]:
    """Shows in a terminal that something goes on whose length is not known, and nothing elsewhere."""
    mixed = _is_mixed(console)
    return Live(
        Spinner("dots", what),
        console=console,
        transient=True,
        refresh_per_second=12.5,
        redirect_stdout=mixed,
        redirect_stderr=mixed,
    )


def _is_mixed(console: Console) -> bool:
    """Whether what others print must be kept apart from a live line, as both go to the same terminal."""
    return beneath(console.file) is sys.stdout


def clock(seconds: float) -> str:
    """
    >>> clock(80), clock(7384)
    ('1:20', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=WIDTH),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[doing]}", markup=False),
        console=console,
        speed_estimate_period=WINDOW_S,
        redirect_stdout=_is_mixed(console),
        redirect_stderr=_is_mixed(console),
    )
