"""Functions of the user's, each in a process of its own that answers here: one that exits or hangs ends that alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from blade_dist.errors import UserError
from blade_dist.rewards.given import cut_short

if TYPE_CHECKING:
    from blade_dist.catalog.catalog import Catalog
    from blade_dist.rewards.composite import Own, Scores
    from blade_dist.rewards.lists import Lists

START_S = 120.0
"""How long, in seconds, a process may take beyond the limit at its first call, as it imports the function."""


class Apart:
    """Starts a process for each function at its first call; all of them end with this one."""

    def __init__(self, limit_s: float) -> None:
        """``limit_s``: ``reward.timeout_s``, for a call."""
        self._limit_s = limit_s
        self._answering: dict[str, _Answering] = {}

    def function(self, name: str, setting: str) -> Own:
        """The one of this import path, which stands in ``setting``; it is imported at its first call.

        It raises UserError where the function raises, ends its process, or takes too long.
        """
        return partial(self._scores, name, f"{setting} {name}")

    def _scores(self, name: str, where: str, lists: Lists) -> Scores:
        answering = self._answering.setdefault(name, _Answering(name))
        try:
            answer = answering.ask(lists, self._limit_s)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self._answering.pop(name).end()
            raise UserError(f"{where}: {how_it_ended(code)}; let it raise an error instead") from None
        if answer is None:
            self._answering.pop(name).end()
            raise UserError(f"{where}: {too_slow(self._limit_s)}; make it faster, or raise that setting")
        if isinstance(answer, str):
            raise UserError(f"{where}: {answer}")
        return answer


def too_slow(limit_s: float) -> str:
    """In words, of a function."""
    return f"did not answer within reward.timeout_s = {limit_s:g} s"


def how_it_ended(code: int | None) -> str:
    """In words, of a process's exit code."""
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"it ended its process with exit code {code}"


class _Answering:
    """The process of one function."""

    def __init__(self, name: str) -> None:
        self._pipe: Connection | None = None
        self._process: Any = None
        self._name = name
        self._known: Catalog | None = None
        """The catalog that it has: it may be large, and is sent once."""

    def ask(self, lists: Lists, limit_s: float) -> Scores | str | None:
        """Its scores, why there are none, or None where it took too long.

        Raises:
            EOFError, BrokenPipeError, ConnectionResetError: the process has ended.
        """
        if self._pipe is None:
            # a new interpreter: a copy of this one would have its threads' locks, and not the threads
            spawn = multiprocessing.get_context("spawn")
            self._pipe, other = spawn.Pipe()
            self._process = spawn.Process(target=_answer, args=(self._name, other), daemon=True)
            self._process.start()
            other.close()
            limit_s += START_S
        catalog = None if lists.catalog is self._known else lists.catalog
        self._known = lists.catalog
        self._pipe.send((replace(lists, catalog=None), catalog))  # type: ignore[arg-type]
        if not self._pipe.poll(limit_s):
            return None
        answer: Scores | str = self._pipe.recv()
        return answer

    def end(self) -> int | None:
        """Its exit code; it is killed where it goes on."""
        self._process.join(1.0)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with all that it has started
        self._process.join()
        code: int | None = self._process.exitcode
        return code


def _answer(name: str, pipe: Connection) -> None:
    """In the process of its own, until the other one has closed the pipe or ended."""
    from blade_dist.rewards.composite import imported, one_line

    os.setsid()  # so that it can be ended with all that it starts
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it may start others
    own: Own | None = None
    catalog: Any = None
    while True:
        try:
            lists, new = pipe.recv()
        except EOFError:
            return
        catalog = catalog if new is None else new
        answer: Scores | str
        try:
            with cut_short(name):
                own = own or imported(name, "its import:")  # not before: who asks waits until it reads
                answer = np.asarray(own(replace(lists, catalog=catalog)), dtype=np.float64)
        except UserError as error:
            answer = str(error)
        except (Exception, SystemExit) as error:  # exit() would end the process without a word
            answer = f"raised {one_line(error)}"
        pipe.send(answer)
