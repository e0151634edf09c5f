"""What is kept of an engine that was lost: its stacks where it hangs, and the end of its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LOG_BYTES = 4000
"""Of the end of a log that are kept."""

DUMP_S = 20.0
"""How long the dump of stacks may take."""

HANDLER_S = 1.0
"""How long a process has to write its own stacks."""

NO_STACKS = "No stacks by py-spy"
"""What an incident says, and why, where it could not read them."""


def last_words(pid: int, log: str, silent: bool) -> str:
    """Stacks of the process ``pid`` of this node, where it is ``silent``, and the end of its log.

    By py-spy, which reads a stopped process too; where there is none, or it may not, that is said, and the process is
    asked for them by the signal for which an engine registers ``faulthandler``, which writes to its log.
    """
    stacks = ""
    if silent:
        try:
            stacks = _stacks(pid)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            stacks = f"{NO_STACKS}: {said.strip()}"
            _ask(pid)
    try:
        end = Path(log).read_bytes()[-LOG_BYTES:].decode(errors="replace")
    except OSError as error:
        end = str(error)
    return f"{stacks}\n\nThe end of its log, {log}:\n\n{end}\n".lstrip("\n")


def _stacks(pid: int) -> str:
    """By py-spy.

    Raises:
        OSError: There is none.
        subprocess.SubprocessError: It may not read the process, or takes too long.
    """
    beside = Path(sys.executable).with_name("py-spy")  # Ray brings it, into an environment that need not be on PATH
    spy = str(beside) if beside.exists() else "py-spy"
    dump = [spy, "dump", "--nonblocking", "--pid", str(pid)]  # pausing the process first fails where it is stopped
    return subprocess.run(dump, check=True, capture_output=True, text=True, timeout=DUMP_S).stdout


def _ask(pid: int) -> None:
    """For its own stacks, which it writes to its log unless it is stopped."""
    try:
        os.kill(pid, signal.SIGUSR1)
        time.sleep(HANDLER_S)
    except ProcessLookupError:
        pass
