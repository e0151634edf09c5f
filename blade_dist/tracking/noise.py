"""What others print (Ray, DeepSpeed, Transformers, vLLM, the workers) goes to the run's log, ours to the terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console

from blade_dist.tracking.lasting import lasting
from blade_dist.tracking.say import say

OURS = "blade_dist"
"""Name of the logger whose warnings are for the terminal."""


@contextmanager
def noise_to(log: Path, command: str) -> Iterator[tuple[TextIO, TextIO]]:
    """Inside, all that is printed, logged or warned of is appended to ``log``, also by processes that are started.

    Yields:
        Streams that lead to where stdout and stderr led before.

    ``command`` stands above its noise. One without noise leaves the log as it was, and no new one.

    Raises:
        OSError: the log can't be written.
    """
    made = not log.parent.exists()
    log.parent.mkdir(parents=True, exist_ok=True)
    # never closed: loggers keep the stderr of the time when they were imported, and write to it to the process's end
    file = log.open("a", buffering=1, encoding="utf-8", errors="replace")
    with ExitStack() as stack:
        before = log.stat().st_size
        file.write(f"--- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {command}\n")
        stack.callback(_undo_where_silent, log, before, log.stat().st_size, made)
        out, err = (stack.enter_context(_led_away(name, file)) for name in ("stdout", "stderr"))
        stack.enter_context(_ours_on(err))
        yield out, err


def _undo_where_silent(log: Path, before: int, silent: int, made: bool) -> None:
    """Takes the command's line, a new log and its folder (``made``) away where nothing came; sizes in bytes."""
    with suppress(OSError):
        if log.stat().st_size == silent:
            os.truncate(log, before)
            if not before:
                log.unlink()
        if made:
            log.parent.rmdir()


@contextmanager
def _led_away(name: str, file: TextIO) -> Iterator[TextIO]:
    """Inside, ``sys.stdout`` (or stderr) is the file, and so is what processes take for it; yields what it was.

    A stream that is not the process's own, a test's say, has no file descriptor to lead away.
    """
    stream: TextIO = getattr(sys, name)
    stream.flush()
    number = {"stdout": 1, "stderr": 2}[name]
    with ExitStack() as stack:
        stack.callback(setattr, sys, name, stream)
        if _descriptor(stream) == number:
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            own = os.fdopen(os.dup(kept), "w", buffering=1, encoding=stream.encoding, errors=stream.errors)
            stack.enter_context(own)
            os.dup2(file.fileno(), number)
            stream = own
        setattr(sys, name, file)
        yield stream


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


@contextmanager
def _ours_on(stream: TextIO) -> Iterator[None]:
    """Inside, warnings of this package's loggers are said as they are, on the stream."""
    handler, logger = _Said(Console(file=lasting(stream))), logging.getLogger(OURS)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Said(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        say(self._console, record.getMessage())
