"""An actor of the driver's node that hangs is ended: Ray starts another, and all goes on as if it had died."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from blade_dist.rollouts.incident import last_words
from blade_dist.settings import Config
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths

_LOG = logging.getLogger(__name__)
LIFE = "life"
"""Concurrency group of the actors that are watched: its calls are answered whatever else an actor is at."""
LOOK_S = 1.0
"""Seconds between two looks at an answer."""
STARTS = 5
"""How many times ``ray.silence_s`` an actor may take until it says for the first time, or again, that it lives."""


@dataclass(frozen=True)
class State:
    """What an actor says of itself."""

    pid: int
    log: str
    """File to which its process writes its errors."""
    busy_s: float
    """Since when it is at what it was asked for; 0 where it does not say, or does nothing."""
    busy_with: str | None = None
    """Code of the user's that it is at."""


def state_of(instance: Any) -> State:
    """Runs in the actor, beside what it was asked for."""
    since = getattr(instance, "busy_since", None)
    busy_s = 0.0 if since is None else time.monotonic() - since
    return State(os.getpid(), str(Path("/proc/self/fd/2").readlink()), busy_s, getattr(instance, "busy_with", None))


class Watch:
    """Asks one actor again and again whether it lives."""

    def __init__(self, name: str, actor: Any, config: Config, busy_limit_s: float | None = None) -> None:
        """
        Args:
            name: of the actor, as it is called in messages.
            actor: on this node; has the concurrency group :data:`LIFE`.
            config: ``ray.silence_s`` and the run's folder are read.
            busy_limit_s: of ``reward.timeout_s``; None where the work may take as long as it likes.
        """
        self._name, self._actor, self._busy_limit_s = name, actor, busy_limit_s
        self._silence_s = config.ray.silence_s
        self._incidents = RunPaths(config.run.dir.absolute()).incidents
        self._state: State | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()  # a call of it after the end of Ray would start another Ray

    def _run(self) -> None:
        question = self._actor.__ray_call__.options(concurrency_group=LIFE)
        asked, since = question.remote(state_of), time.monotonic()
        alive = since
        while not self._ended.wait(LOOK_S):
            if asked is None:
                asked, since = question.remote(state_of), time.monotonic()
            if ray.wait([asked], timeout=0)[0]:
                try:
                    self._state, alive = ray.get(asked), time.monotonic()
                except ray.exceptions.RayError:
                    self._state = None  # it died: where Ray starts another, that one answers the next question
                asked = None
                if self._state is not None and self._state.busy_s > (self._busy_limit_s or float("inf")):
                    at = self._state.busy_with or "the same lists"
                    self._end(f"was at {at} for longer than reward.timeout_s = {self._busy_limit_s:g} s")
            elif time.monotonic() - since > self._silence_s and self._state is not None:
                self._end(f"gave no sign of life within ray.silence_s = {self._silence_s:g} s")
                asked, alive = None, time.monotonic()
            if self._state is None and time.monotonic() - alive > STARTS * self._silence_s:
                _LOG.warning("%s did not start within %g s and is given up", self._name, STARTS * self._silence_s)
                ray.kill(self._actor)
                return

    def _end(self, why: str) -> None:
        """Keeps what is known of the process, then kills it."""
        state, self._state = self._state, None
        assert state is not None
        line = f"{self._name} (process {state.pid}) {why}"
        kept = self._incidents / f"{time.strftime('%Y%m%d-%H%M%S')}-{self._name.replace(' ', '-')}.txt"
        write_text(kept, f"{line}\n\n{last_words(state.pid, state.log, silent=True)}")
        _LOG.warning("%s: another one starts in its place (see %s)", line, kept)
        with suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGKILL)  # it is on this node; a stopped process would not hear Ray's request


@contextmanager
def watched(config: Config, **actors: Any) -> Iterator[None]:
    """Watches several until the block ends, each by its name here."""
    with ExitStack() as stack:
        for name, actor in actors.items():
            stack.enter_context(Watch(name.replace("_", " "), actor, config))
        yield
