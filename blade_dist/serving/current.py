"""Which export requests are answered from; another one can take its place while they come. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from blade_dist.errors import UserError
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.recommend import List
from blade_dist.serving.request import Resolved, Resolver


class Busy(Exception):  # noqa: N818 - no error: it is said with a time to try again
    """All engines have as many requests as may wait."""


class NoEngine(Exception):  # noqa: N818
    """The engines that had a request were lost, or none could be started."""


class Engines(Protocol):
    """Who writes the lists."""

    async def write(self, requests: Sequence[Resolved]) -> list[List]:
        """A list for each.

        Raises:
            Busy: too many wait already.
            NoEngine: no engine lived long enough.
        """
        ...

    async def running(self) -> int:
        """Engines that answer."""
        ...


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(eq=False)
class Served:
    """An export with the engines that write its lists."""

    resolver: Resolver
    engines: Engines
    under_way: int = 0
    """Requests without an answer yet."""
    idle: asyncio.Event = field(default_factory=_set)
    """Set where there are none."""


class Starter(Protocol):
    """Who starts and stops engines."""

    async def start(self, folder: Path, before: OpenedExport) -> Served:
        """Engines of another export of the same policy, ready to write, beside those that run.

        Raises:
            UserError: no such export there.
            NoEngine: they did not start.
        """
        ...

    async def stop(self, served: Served) -> None:
        """Ends the engines of an export."""
        ...


class Current:
    """The export that a request is answered from: the one that was current when the request came."""

    def __init__(self, served: Served) -> None:
        self._served = served

    @property
    def served(self) -> Served:
        """What the next request gets."""
        return self._served

    @contextmanager
    def taken(self) -> Iterator[Served]:
        """For one request: its engines are not stopped before it ends."""
        served = self._served
        served.under_way += 1
        served.idle.clear()
        try:
            yield served
        finally:
            served.under_way -= 1
            if not served.under_way:
                served.idle.set()

    async def replace(self, served: Served) -> Served:
        """Gives all further requests to another export; the one before, when its last request has ended."""
        before, self._served = self._served, served
        await before.idle.wait()
        return before


def check_same_policy(now: OpenedExport, other: OpenedExport) -> None:
    """
    Raises:
        UserError: the other export is of another policy.
    """
    for name in ("weights", "codec"):
        here, there = getattr(now.trained, name), getattr(other.trained, name)
        if here != there:
            raise UserError(
                f"served: {other.folder}: another policy: its training had the {name} {there}, what is served had "
                f"{here}; give an export that `blade-dist catalog` made from this one, or start another server"
            )
