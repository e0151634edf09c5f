"""A command whose run has a copy in a storage (``run.copy_to``): fetched from there before, copied there meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from rich.console import Console
from rich.filesize import decimal

from blade_dist.errors import UserError
from blade_dist.store.copy import BusyError, Copier, Copy, Seals, seals
from blade_dist.store.fetched import fetch
from blade_dist.store.files import FULL
from blade_dist.store.storage import Storage, said, unusable
from blade_dist.tracking.bar import waiting
from blade_dist.tracking.say import say

Answer = TypeVar("Answer")

POLL_S = 3.0
"""Between two looks at the run's folder."""
ANSWER_S = 60.0
"""In which a storage must take and give back a few bytes."""
STALLED_S = 300.0
"""How long the end of a command waits for a copy of which nothing goes through."""


@contextmanager
def copied(root: Path, uri: str, console: Console) -> Iterator[None]:
    """Around a command's work in a run's folder ``root``, which is copied to ``uri``.

    A copy that fails is said, tried again when something else is whole, and never ends the work.

    Raises:
        UserError: the storage can't be used, or has another run's copy.
    """
    storage = usable(uri)
    with waiting(console, f"what {storage.uri} has"):
        lines = _fetched(root, storage)
    for line in lines:
        say(console, f"copy: {line}")
    copies = Copies(root, storage, lambda line: say(console, f"copy: {line}"))
    copies.start()
    try:
        yield
    finally:
        copies.finish()


def usable(uri: str) -> Storage:
    """The storage, after it has taken, given back and deleted a small file.

    Raises:
        UserError: it has not.
    """

    def opened() -> Storage:
        storage = Storage(uri)
        storage.check()
        return storage

    return _within(ANSWER_S, opened, uri)


class Copies(threading.Thread):
    """Copies a run's folder whenever something in it has become whole, one copy at a time."""

    def __init__(self, root: Path, storage: Storage, tell: Callable[[str], object]) -> None:
        """``tell``: is given what there is to say, a line at a time."""
        super().__init__(daemon=True)  # a storage that hangs does not keep the process
        self._root = root
        self._storage = storage
        self._tell = tell
        self._copier = Copier(root, storage, self._moved)
        self._ends = threading.Event()
        self._newest: Copy | None = None
        self._failed = ""
        """Why the last try failed; empty where it has not."""
        self._last_move = time.monotonic()

    def run(self) -> None:
        """Until the command's work has ended, and once more then."""
        tried: Seals = {}
        while not self._ends.wait(POLL_S):
            if (found := self._seals(tried)) != tried and self._copy():
                tried = found
        while not self._copy():
            time.sleep(POLL_S)

    def finish(self) -> None:
        """Waits for the last copy, and says what the storage holds."""
        self._moved()
        self._ends.set()
        while self.is_alive() and time.monotonic() - self._last_move < STALLED_S:
            self.join(1.0)
        if self.is_alive():
            self._failed = f"nothing went through for {STALLED_S:.0f} s"
        if self._failed:
            self._tell(
                f"warning: {self._storage.uri} does not hold all of {self._root} ({self._failed}): run the same "
                "command again, and what is missing is copied"
            )
        elif self._newest is not None:
            size = decimal(self._newest.bytes)
            self._tell(f"{self._storage.uri} holds all of {self._root}, {len(self._newest.files)} files of {size}")

    def _copy(self) -> bool:
        """Tries once; False where another command copies the same folder just now."""
        try:
            self._newest = self._copier.copy()
            self._failed = ""
        except BusyError:
            return False
        except Exception as error:  # each storage's library raises its own
            self._failed = said(error)
            if not self._ends.is_set():
                self._tell(f"warning: {self._root} was not copied: {self._failed}; tried again at the next checkpoint")
        return True

    def _seals(self, before: Seals) -> Seals:
        try:
            return seals(self._root)
        except OSError:  # something went away meanwhile
            return before

    def _moved(self) -> None:
        self._last_move = time.monotonic()


def _fetched(root: Path, storage: Storage) -> list[str]:
    try:
        return fetch(root, storage)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise unusable(storage.uri, error) from error
    except pa.ArrowException as error:
        raise unusable(storage.uri, error) from error


def _within(seconds: float, work: Callable[[], Answer], uri: str) -> Answer:
    """What ``work`` returns or raises; it is left alone where it takes longer, as libraries may try for minutes."""
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise UserError(f"run.copy_to: {uri} has not answered within {seconds:g} s: is the network up?")
    return answers[0]
