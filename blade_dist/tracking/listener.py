"""Who is shown the steps while the learners run: a person, by a bar in a terminal and by plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

from rich.console import Console

from blade_dist.tracking.bar import LINE_EVERY_S as WAIT_S
from blade_dist.tracking.bar import Bar, clock
from blade_dist.tracking.parting import FRESH
from blade_dist.tracking.say import say

SHOWN = {
    "reward": "up is good",
    "informative_groups": "is the share of prompts that teach something",
    "kl": "is the distance from the fine-tuned model",
    "logprob_gap": "near 0 is good",
    "lists_per_second": "",
    "loss": "down is good",
    "validation_ndcg": "up is good",
    "validation": "up is good",
    FRESH: "is that of lists sampled for validation prompts",
}
"""Numbers of a row that are shown, where it has them, and what a reader has to know of each."""

STARTING = "starting the learners"
"""Processes that load what they need."""

LINE_EVERY_S = 2.0
"""Shortest time between two plain lines: a log of thousands of fast steps stays readable."""


Warner = Callable[[dict[str, float]], Sequence[str]]
"""Is shown row after row, and answers with what each warns of."""


class StepListener(Protocol):
    """A context manager that is open as long as the learners run, and is handed the step log's rows meanwhile."""

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...

    def waiting(self, doing: str) -> None:
        """No learner has done a step yet; ``doing``: what they are at, empty where they do not say."""

    def update(self, step: int, row: dict[str, float]) -> None:
        """Takes the row of ``step`` (counted from 0); a resumed run begins with the steps of its earlier sittings."""


class StepPrinter:
    """Shows the steps, and before the first of them says which way its numbers are good."""

    def __init__(self, total: int, console: Console, stage: str, warners: Sequence[Warner] = ()) -> None:
        """``total``: steps of the whole run; ``stage``: what they are steps of; ``warners``: are shown each."""
        self._total = total
        self._console = console
        self._stage = stage
        self._warners = warners
        self._explained = False
        self._printed = 0.0
        self._pending: str | None = None
        self._began = self._waited = time.monotonic()
        self._bar = Bar(stage, total, "steps", console, STARTING) if console.is_terminal else None

    def __enter__(self) -> StepPrinter:
        self._began = self._waited = time.monotonic()
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.__exit__()
        elif self._pending:
            say(self._console, self._pending)  # the last step is always shown, however soon it came

    def waiting(self, doing: str) -> None:
        """Shows what the learners are at, and since when they are awaited."""
        now = time.monotonic()
        if self._bar:
            self._bar.say(f"{doing or STARTING}, {clock(now - self._began)}")
        elif now - self._waited >= WAIT_S:
            say(self._console, f"{self._stage}: {doing or STARTING}, {clock(now - self._began)} until now")
            self._waited = now

    def update(self, step: int, row: dict[str, float]) -> None:
        """Shows the row of ``step``, counted from 0."""
        if not self._explained and (words := explain(row)):
            say(self._console, f"{self._stage}: {words}")
        self._explained = True
        for warner in self._warners:
            for warning in warner(row):
                say(self._console, f"{self._stage}: warning at step {step + 1}: {warning}")
        if self._bar:
            self._bar.at(step + 1, fitting(row, self._bar.room))
            return
        self._pending = f"step {step + 1}/{self._total}: {describe(row)}"
        if time.monotonic() - self._printed >= LINE_EVERY_S:
            say(self._console, self._pending)
            self._printed, self._pending = time.monotonic(), None


def explain(row: dict[str, float]) -> str:
    """What a reader has to know of the shown numbers.

    >>> explain({"loss": 5.7, "validation_ndcg": 0.1})
    'loss down is good; validation_ndcg up is good'
    """
    return "; ".join(f"{name} {words}" for name, words in SHOWN.items() if words and row.get(name) is not None)


def fitting(row: dict[str, float], room: int) -> str:
    """The first of the shown numbers, as many as ``room`` characters hold.

    >>> fitting({"reward": 0.25, "informative_groups": 1.0}, room=20)
    'reward 0.25'
    """
    numbers = [f"{name} {row[name]:.3g}" for name in SHOWN if row.get(name) is not None]
    ends = accumulate(len(number) + 2 for number in numbers)
    return ", ".join(number for number, end in zip(numbers, ends, strict=True) if end - 2 <= room)


def describe(row: dict[str, float]) -> str:
    """The shown numbers and the seconds of each phase, in one line."""
    numbers = [f"{name} {row[name]:.3g}" for name in SHOWN if row.get(name) is not None]
    phases = ("generate", "score", "estimate", "learn", "push")
    seconds = [f"{phase} {row[f'seconds/{phase}']:.2f}" for phase in phases if f"seconds/{phase}" in row]
    return ", ".join([*numbers, *([" ".join(seconds) + " s"] if seconds else [])])
