"""One writer at a time: a folder is held by the process that works in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blade_dist.errors import UserError


@contextmanager
def held(folder: Path, work: str, setting: str) -> Iterator[None]:
    """Holds ``folder`` while the block runs; it is let go when the process ends, however it ends.

    Args:
        folder: it need not be there; the lock's file stands beside it.
        work: what is done, for whoever finds it held.
        setting: that names the folder.

    Raises:
        UserError: another process holds it; says which one, where and since when.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, path, folder, setting)
        holder = {"work": work, "process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, folder: Path, setting: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{setting}: {folder} is in use by {_holder(path)}: wait until it has ended, or choose another run.dir"
        ) from None
    except OSError:
        return  # a file system without locks: as it was without this
    if os.fstat(descriptor).st_nlink == 0:  # its holder ended, and took the file away, between our open and our lock
        raise UserError(f"{setting}: {folder} was let go by another process just now; start the command again")


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"{found['work']} (process {found['process']} on {found['host']}, since {found['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"
