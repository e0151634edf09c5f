"""Processes that never outlive the one that started them.

``ray start`` forks raylets that fork workers, some into sessions of their own: killing a process group misses them.
Two calls of Linux do not: a child's death signal, and a subreaper, who becomes the parent of what its children leave.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_S = 20.0
"""How long a process may take to end after SIGTERM."""


class Stopped(BaseException):
    """This process was sent a signal that ends it; ``number`` is the signal's.

    No ``Exception``, so that nothing on the way out handles it by accident.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP raise :class:`Stopped` once; afterwards, all that was started is gone.

    Where ``nohup`` had SIGHUP ignored, it stays so.

    (On Linux. What a child leaves behind becomes ours, and ends with us.)
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    caught = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        caught.append(signal.SIGHUP)

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)  # the way out is not interrupted
        raise Stopped(number)

    before = {each: signal.signal(each, stop) for each in caught}
    try:
        yield
    finally:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        end_all()
        for each, handler in before.items():
            signal.signal(each, handler)


def start(command: Sequence[str], log: Path | None = None, env: dict[str, str] | None = None) -> subprocess.Popen[Any]:
    """A child in a new session that gets SIGTERM when this process dies; its output is written to ``log``.

    In a new session, because a terminal's Ctrl-C reaches a whole process group: children are to end in our order.
    """
    output: IO[bytes] | None = None if log is None else log.open("wb")
    try:
        return subprocess.Popen(
            list(command),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - one system call, no lock
        )
    finally:
        if output is not None:
            output.close()


def end(process: subprocess.Popen[Any], grace_s: float = GRACE_S) -> int:
    """SIGTERM to the process, and SIGKILL to its whole session where that does not end it; returns its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def end_all(grace_s: float = 5.0) -> None:
    """Ends every process below this one, also those whose parent is gone."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        _quietly(child.terminate)
    psutil.wait_procs(children, timeout=grace_s)
    # looked for anew each time: one that ends may leave children behind, which are ours from then on
    while left := psutil.Process().children(recursive=True):
        for child in left:
            _quietly(child.kill)
        psutil.wait_procs(left, timeout=1)


def _quietly(action: Any) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        return


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, value, 0, 0, 0)
