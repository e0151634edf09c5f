"""A server in a process of its own, and clients that ask it one request after another."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
import psutil

from blade_dist.serving.door import HEALTH, RECOMMEND
from blade_dist.serving.engines import APP, ENGINE

START_S = 300.0
"""How long a server may take until all its engines answer."""
BUSY_S = 0.05
"""Until a request that was refused as one too many is sent again."""
Body = dict[str, Any] | list[dict[str, Any]]
T = TypeVar("T")


@dataclass
class Load:
    """What clients saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds of each request."""
    answers: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    """Number of the request, and the lists that came."""
    lost: int = 0
    """Requests without an answer, or with another one than lists."""

    @property
    def per_second(self) -> float:
        """Requests."""
        return len(self.answers) / self.seconds


def percentiles_ms(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """``p50_ms``, ``p95_ms`` and ``p99_ms`` of latencies in seconds, each by the names that they come with."""
    return {
        f"p{share}_ms": {name: float(np.percentile(of, share)) * 1e3 for name, of in seconds.items()}
        for share in (50, 95, 99)
    }


async def closed_loop(url: str, bodies: Sequence[Body], clients: int, most_s: float = math.inf) -> Load:
    """Sends all bodies, so many at once: each client sends its next one when it has an answer.

    ``most_s``: seconds after which no further one is sent.
    """
    load, waiting = Load(), until(time.perf_counter() + most_s, enumerate(bodies))
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*(_client(session, url + RECOMMEND, waiting, load) for _ in range(clients)))
        load.seconds = time.perf_counter() - began
    return load


def until(end: float, things: Iterable[T]) -> Iterator[T]:
    """Those that are asked for before the clock (:func:`time.perf_counter`) says ``end``, and one at least."""
    for number, thing in enumerate(things):
        if number and time.perf_counter() >= end:
            return
        yield thing


async def _client(session: aiohttp.ClientSession, url: str, waiting: Any, load: Load) -> None:
    for number, body in waiting:
        began = time.perf_counter()
        try:
            while True:
                async with session.post(url, json=body) as response:
                    answer = await response.json()
                if response.status != 429:
                    break
                await asyncio.sleep(BUSY_S)
        except (aiohttp.ClientError, TimeoutError):
            load.lost += 1
            continue
        load.latencies.append(time.perf_counter() - began)
        if response.status == 200:
            load.answers.append((number, answer if isinstance(answer, list) else [answer]))
        else:
            load.lost += 1


@dataclass(frozen=True)
class Server:
    """One that answers."""

    url: str
    process: psutil.Process

    def memory_mb(self) -> float:
        """Resident memory of its engines, without what is shared."""
        infos = [engine.memory_info() for engine in self._engines()]
        return sum(info.rss - info.shared for info in infos) / 2**20

    async def kill_engine(self, after_s: float) -> None:
        """SIGKILL to one of them, later."""
        await asyncio.sleep(after_s)
        self._engines()[0].kill()

    def _engines(self) -> list[psutil.Process]:
        titles = {one: " ".join(_command(one)).strip() for one in self.process.children(recursive=True)}
        if found := [one for one, title in titles.items() if is_engine(title)]:
            return found
        raise RuntimeError(f"none of these is an engine: {sorted(title[:60] for title in titles.values())}")


def is_engine(title: str) -> bool:
    """Whether a process of this title is an engine: Ray writes ``ray::CLASS``, and ``.METHOD`` behind it while it is at
    work; Serve's class of a replica has the application's and the deployment's name in it."""
    return re.match(rf"ray::ServeReplica:{APP}\d+:{ENGINE}(\.|$)", title) is not None


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@contextlib.asynccontextmanager
async def server(export: Path, engines: int) -> AsyncIterator[Server]:
    """``blade-dist serve`` with so many engines until the block ends; half of the cores are left to the clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "blade_dist", "serve", str(export), "--port", str(port)]
    command += ["--replicas", str(engines), "--threads", str(max(1, len(os.sched_getaffinity(0)) // 2 // engines))]
    plain = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (export.parent / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=plain, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        await _answering(url, engines, process, export.parent / "server.log")
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)


async def _answering(url: str, engines: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url + HEALTH) as response:
                    if response.status == 200 and (await response.json())["engines"] >= engines:
                        return
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
            await asyncio.sleep(0.2)
