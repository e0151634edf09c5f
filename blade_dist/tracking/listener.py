"""Who is shown the steps while the learners run: a person, by a bar in a terminal and by plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from blade_dist.tracking.say import say

SHOWN = (
    "reward",
    "informative_groups",
    "kl",
    "logprob_gap",
    "lists_per_second",
    "loss",
    "validation_ndcg",
    "validation",
)
"""Numbers of a row that are shown, where it has them."""

LINE_EVERY_S = 2.0
"""Shortest time between two plain lines: a log of thousands of fast steps stays readable."""


class StepListener(Protocol):
    """A context manager that is open as long as the learners run, and is handed the step log's rows meanwhile."""

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, step: int, row: dict[str, float]) -> None:
        """Takes the row of ``step`` (counted from 0); a resumed run begins with the steps of its earlier sittings."""


class StepPrinter:
    """Prints the steps."""

    def __init__(self, total: int, console: Console) -> None:
        """``total``: steps of the whole run."""
        self._total = total
        self._console = console
        self._printed = 0.0
        self._pending: str | None = None
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task("", total=total) if self._bar else None

    def __enter__(self) -> StepPrinter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._pending:
            say(self._console, self._pending)  # the last step is always shown, however soon it came

    def update(self, step: int, row: dict[str, float]) -> None:
        """Shows the row of ``step``, counted from 0."""
        text = describe(row)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step + 1, description=text)
            return
        self._pending = f"step {step + 1}/{self._total}: {text}"
        if time.monotonic() - self._printed >= LINE_EVERY_S:
            say(self._console, self._pending)
            self._printed, self._pending = time.monotonic(), None


def describe(row: dict[str, float]) -> str:
    """The shown numbers and the seconds of each phase, in one line."""
    numbers = [f"{name} {row[name]:.3g}" for name in SHOWN if row.get(name) is not None]
    phases = ("generate", "score", "estimate", "learn", "push")
    seconds = [f"{phase} {row[f'seconds/{phase}']:.2f}" for phase in phases if f"seconds/{phase}" in row]
    return ", ".join([*numbers, *([" ".join(seconds) + " s"] if seconds else [])])
