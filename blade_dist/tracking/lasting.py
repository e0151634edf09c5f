"""A stream that lasts: where its terminal was closed, or who read its pipe has gone, what is written to it is lost."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

GONE = (errno.EIO, errno.EPIPE, errno.ENXIO)
"""What the system says of a closed terminal, and of a pipe that nobody reads."""


class Lasting:
    """The stream, but nothing fails by its reader's leave: a run has more to do than to be seen."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost = False
        """Whether nobody reads any more."""

    def write(self, text: str) -> int:
        self._tried(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._tried(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _tried(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.lost = True
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())  # so that what the stream still holds fails nobody at the end either
            os.close(null)


def open_closed() -> None:
    """Standard streams that were closed when the process began, as some programs start others, lead to nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, so that no file of ours gets it
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(null, mode))


def lasting(stream: TextIO) -> TextIO:
    """The stream as a :class:`Lasting`, which is used as it is."""
    return cast(TextIO, stream if isinstance(stream, Lasting) else Lasting(stream))


def is_lost(stream: object) -> bool:
    """Whether nobody reads it any more, as far as writing to it has shown."""
    return isinstance(stream, Lasting) and stream.lost


def beneath(stream: object) -> object:
    """What a :class:`Lasting` writes to; another stream as it is."""
    return stream.stream if isinstance(stream, Lasting) else stream
