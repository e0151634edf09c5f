"""Runs a command in a terminal of its own, and keeps what a person would have seen there."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyte

COLUMNS, LINES = 80, 40
"""Of the terminal."""

SCROLLED = 10_000
"""Lines above the terminal's first that are kept."""

EVERY_S = 0.5
"""Between two looks at the screen."""

READ = 65536
"""Bytes that are read at once."""

BAR = "━"
"""What a bar is drawn with."""


@dataclass(frozen=True)
class Frame:
    """What stood on the screen, ``seconds`` after the command began."""

    seconds: float
    text: str

    def has_bar(self, stage: str) -> bool:
        """Whether the stage's bar is the newest that is shown."""
        bars = [line for line in self.text.splitlines() if BAR in line and line[0].isalpha()]
        return bool(bars) and bars[-1].startswith(f"{stage} ")


@dataclass(frozen=True)
class Recording:
    """Of a command: the screen as it changed, and at the end all lines, with those that had scrolled away."""

    frames: list[Frame]
    text: str
    code: int
    """With which it ended."""

    def middle(self, stage: str) -> Frame | None:
        """The frame in the middle of those that show the stage's bar; None where none does."""
        shown = [frame for frame in self.frames if frame.has_bar(stage)]
        if not shown:
            return None
        half = (shown[0].seconds + shown[-1].seconds) / 2
        return min(shown, key=lambda frame: abs(frame.seconds - half))


class Screen:
    """A terminal of :data:`COLUMNS` and :data:`LINES` without a window."""

    def __init__(self) -> None:
        self._screen = pyte.HistoryScreen(COLUMNS, LINES, history=SCROLLED)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, data: bytes) -> None:
        """Takes what a program wrote."""
        self._stream.feed(data)

    @property
    def shown(self) -> str:
        """The lines that a person sees, without blanks at their ends."""
        return _text(self._screen.display)

    @property
    def whole(self) -> str:
        """With the lines that have scrolled away."""
        above = ["".join(line[at].data for at in range(COLUMNS)) for line in self._screen.history.top]
        return _text([*above, *self._screen.display])


def record(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Recording:
    """Runs the command in the folder, in a new terminal, to its end."""
    screen, frames, began = Screen(), [Frame(0.0, "")], time.monotonic()
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (LINES, COLUMNS))
    given = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command, cwd=folder, env=given | {"TERM": "xterm-256color"}, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    looked = began
    with os.fdopen(ours, "rb", buffering=0) as terminal, _stopped(process):
        # a daemon that outlives the command may hold its terminal open: then there is no end to read
        while (data := _read(terminal.fileno())) != b"" and not (data is None and process.poll() is not None):
            screen.feed(data or b"")
            if time.monotonic() - looked >= EVERY_S:
                looked = time.monotonic()
                if (text := screen.shown) != frames[-1].text:
                    frames.append(Frame(looked - began, text))
    return Recording(frames, screen.whole, process.wait())


@contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Asks a process that still runs at the end of the block, after Ctrl-C say, to end."""
    try:
        yield
    except BaseException:
        process.terminate()
        raise


def _read(descriptor: int) -> bytes | None:
    """What came within :data:`EVERY_S`; None where nothing did, and nothing at all (``b""``) at the end."""
    if not select.select([descriptor], [], [], EVERY_S)[0]:
        return None
    try:
        return os.read(descriptor, READ)
    except OSError:  # how Linux says that all programs have closed the terminal
        return b""


def _text(lines: Sequence[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).rstrip()
