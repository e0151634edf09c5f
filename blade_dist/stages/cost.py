"""What a run costs: the seconds of each stage over all its sittings, and the memory that was held at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from blade_dist.store.files import read_json, write_json

SAMPLE_S = 1.0
"""Time between two looks at the memory."""

SAVE_S = 10.0
"""Seconds of a sitting that are lost at most where its process is killed."""

UNFINISHED = " (unfinished)"
"""Behind the name of a stage that has not ended yet."""


class StageSeconds:
    """Seconds by stage, in a JSON file that outlives the process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds: dict[str, float] = read_json(file) or {}

    @property
    def finished(self) -> dict[str, float]:
        """Of the stages that have ended."""
        return {name: value for name, value in self._seconds.items() if not name.endswith(UNFINISHED)}

    @contextmanager
    def sitting(self, name: str) -> Iterator[None]:
        """Times the block, which is one sitting of the stage.

        A sitting that was interrupted, by an error or a kill, counts when the stage is resumed: the stage took the sum.
        A stage that has ended and comes again keeps the longer time, as it is skipped then in no time.
        """
        began, before = time.perf_counter(), self._seconds.get(name + UNFINISHED, 0.0)

        def so_far() -> float:
            return before + time.perf_counter() - began

        def save() -> None:
            self._seconds[name + UNFINISHED] = so_far()
            write_json(self._file, self._seconds)

        try:
            with _every(SAVE_S, save):
                yield
        except BaseException:  # a Ctrl-C too
            save()  # the thread has ended: two writers of the file would take its temporary name from each other
            raise
        self._seconds.pop(name + UNFINISHED, None)
        self._seconds[name] = max(self._seconds.get(name, 0.0), so_far())
        write_json(self._file, self._seconds)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The most memory (bytes, proportional set size) that this process and all below it held during the block."""
    peak = [0]

    def look() -> None:
        peak[0] = max(peak[0], _held())

    with _every(SAMPLE_S, look):
        yield peak


@contextmanager
def _every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Calls again and again, from another thread, as long as the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _held() -> int:
    driver = psutil.Process()
    total = 0
    for process in (driver, *driver.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has just ended
    return total
