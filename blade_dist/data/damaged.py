"""What a damaged file raises, as an error that names it. Pure."""

from __future__ import annotations

import errno
import lzma
import zipfile
from collections.abc import Callable

from blade_dist.errors import UserError

NOT_OF_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
"""Errors of the system that say nothing about the file."""


def guarded(is_empty: Callable[[], bool], file: object) -> bool:
    """Whether a file has something in it; UserError where its compression is damaged."""
    with readable(file):
        return not is_empty()


class readable:  # noqa: N801 - a context manager, read as a word
    """Turns what a damaged file raises into a UserError that names it."""

    def __init__(self, file: object) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in NOT_OF_THE_FILE:
            return
        if isinstance(error, (zipfile.BadZipFile, lzma.LZMAError, EOFError, OSError)):
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{self._file}: can't be read: {reason}; is it whole? fetch or export it again") from None
