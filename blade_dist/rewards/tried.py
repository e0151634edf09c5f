"""A user's functions are tried in a process of their own: one that ends its process, or hangs, is named. Pure."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.rewards.apart import how_it_ended, too_slow
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.given import PRINTED, GivenLists
from blade_dist.store.files import read_json

_LOG = logging.getLogger(__name__)
ASKED, SAID = "asked.json", "said.json"
"""Files between the two processes: what shall be tried, and what became of it."""
SHOWN = 4 * PRINTED
"""Bytes of the beginning of what a process prints, and as many of its end, that are shown."""
STACKS_S = 1.0
"""How long, in seconds, a process that takes too long has to print where it is."""
START_S = 120.0
"""How long, in seconds, it may take beyond the limit, which it counts itself once it has started."""
Own = tuple[tuple[str, str], ...]
"""Import paths of functions, each with the setting in which it stands."""


@lru_cache(maxsize=4)
def try_own(own: Own, catalog: Catalog, k: int, incidents: Path, limit_s: float) -> None:
    """Imports functions of the user's and calls each with two lists, in a process of their own.

    Those that passed are not tried again by this process with the same catalog.

    Args:
        own: the functions.
        catalog: the items.
        k: items of a list.
        incidents: folder for the lists that a function fails at.
        limit_s: ``reward.timeout_s``, for all of them together.

    Raises:
        UserError: one can't be imported, fails, ends its process, or takes too long.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog.save(folder)
        asked = {"own": own, "k": k, "incidents": str(incidents), "limit_s": limit_s}
        (folder / ASKED).write_text(json.dumps(asked), encoding="utf-8")
        code, printed = _run(folder, limit_s)
        said = read_json(folder / SAID)
    printed.show()
    if said is None:
        raise RuntimeError(f"no function could be tried, exit code {code}: {printed.end()}")
    if "error" in said:
        raise UserError(said["error"])
    if "where" in said:
        raise UserError(f"{said['where']}: {_ended(code, limit_s, said['when'])}")


def _ended(code: int | None, limit_s: float, when: str) -> str:
    """How the process ended; ``when``: what it was at."""
    if code is None or code == -signal.SIGALRM:
        return f"{too_slow(limit_s)} {when}; make it faster, or raise that setting"
    return f"{how_it_ended(code)} {when}; let it raise an error instead"


class _Printed:
    """What a process prints, as far as it is kept; read all the time, so that the process never waits for it."""

    def __init__(self, stream: Any) -> None:
        """``stream``: not buffered."""
        self._first, self._last, self._left_out = b"", b"", 0
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: Any) -> None:
        for chunk in iter(partial(stream.read, 2**16), b""):
            room = SHOWN - len(self._first)
            self._first += chunk[:room]
            rest = self._last + chunk[room:]
            self._last = rest[-SHOWN:]
            self._left_out += len(rest) - len(self._last)

    def wait(self) -> None:
        """Until the process has closed the stream; a child of it that lives on may hold it open."""
        self._thread.join(STACKS_S)

    def show(self) -> None:
        """Beginning and end, on this process's standard error."""
        middle = f"\n[{self._left_out} bytes are left out]\n" if self._left_out else ""
        sys.stderr.write(f"{self._first.decode(errors='replace')}{middle}{self._last.decode(errors='replace')}")
        if self._left_out:
            _LOG.warning("functions of the reward printed %d bytes more than are shown", self._left_out)

    def end(self) -> str:
        """The last words, in one line."""
        return " ".join((self._first + self._last)[-PRINTED:].decode(errors="replace").split())


def _run(folder: Path, limit_s: float) -> tuple[int | None, _Printed]:
    """The exit code of the process that tries what ``folder`` asks, None where it took too long; what it printed."""
    path = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(folder)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    printed = _Printed(process.stdout)
    code: int | None = None
    try:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(limit_s + START_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        process.wait()
        printed.wait()
    return code, printed


def _try(folder: Path) -> None:
    """In the process of its own. What it is at is noted before, so that it is known whatever becomes of the process."""
    asked: dict[str, Any] = read_json(folder / ASKED) or {}
    catalog, given = Catalog.load(folder), GivenLists(Path(asked["incidents"]), "command")
    faulthandler.enable()
    faulthandler.dump_traceback_later(asked["limit_s"])
    signal.setitimer(signal.ITIMER_REAL, asked["limit_s"] + STACKS_S)  # SIGALRM ends it, whatever it is at
    try:
        for name, setting in asked["own"]:
            where = f"{setting} {name}"
            _say(folder, where=where, when="while it was imported")
            composite = Composite({name: 1.0}, catalog, asked["k"], setting, given=given)
            _say(folder, where=where, when=f"when it was called with the lists in {given.file}")
            composite.check()
    except UserError as error:
        _say(folder, error=str(error))
    else:
        _say(folder)


def _say(folder: Path, **what: str) -> None:
    (folder / SAID).write_text(json.dumps(what), encoding="utf-8")


if __name__ == "__main__":
    _try(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # threads of the user's may run on
