"""``blade-dist serve``: an export's lists over HTTP, by Ray Serve, until it is stopped."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ray import serve
from rich.console import Console

from blade_dist.errors import UserError
from blade_dist.serving.access import TOKEN, check_free, expected_digest
from blade_dist.serving.current import NoEngine
from blade_dist.serving.door import DOCS, Limits
from blade_dist.serving.engines import ENGINE, ONE_LOOP, Replicas, applications, next_name, start
from blade_dist.serving.front import APP, application
from blade_dist.serving.opened import open_export
from blade_dist.stages.room import ADDRESS, joined
from blade_dist.tracking.say import say

LOOK_S = 2.0
"""Seconds between two looks at how many engines run."""


@dataclass(frozen=True)
class Address:
    """Where it listens, on every node that has an engine."""

    host: str
    port: int


def serve_stage(
    served: Path, address: Address, replicas: Replicas, threads: int | None, limits: Limits, console: Console
) -> None:
    """Serves until it is interrupted.

    Args:
        served: the export.
        address: where to listen.
        replicas: how many engines, but for their threads.
        threads: of an engine; None shares the cores out.
        limits: of a request.
        console: for messages.

    Raises:
        UserError: no whole export there; an address that is taken, or open without a token; no place for the engines;
            a Serve that is there already; engines that do not start.
    """
    token = expected_digest(address.host, os.environ)
    check_free(address.host, address.port)
    open_export(served)
    os.environ.update(ONE_LOOP)  # a Ray that starts here hands it to Serve's proxies
    option = "--max-replicas" if replicas.most > replicas.least else "--replicas"
    with joined(replicas.most, replicas.engine, threads, option, doubled=True) as room:
        planned = replace(replicas, threads=room.threads, gpu=room.gpu)
        say(console, f"serve: starting {planned.least} engine(s) of {served}")
        with running_server(served.absolute(), address, planned, limits, token):
            guarded = f"with the token of {TOKEN}" if token else "without a token"
            url = f"http://{f'[{address.host}]' if ':' in address.host else address.host}:{address.port}"
            say(console, f"serve: listening on {url} {guarded}; its requests: {url}{DOCS}; Ctrl-C ends it")
            _watch(console)


@contextmanager
def running_server(
    served: Path, address: Address, replicas: Replicas, limits: Limits, token: bytes | None
) -> Iterator[None]:
    """The server on the connected cluster; on a cluster that stays, all of it is gone at the end.

    Raises:
        UserError: a Serve that is there already; engines that do not start.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        raise UserError("Ray Serve runs on this cluster already; end it with `serve shutdown`, or take another cluster")
    try:
        serve.start(http_options={"host": address.host, "port": address.port}, logging_config={"log_level": "WARNING"})
        try:
            start(next_name(), served, replicas, limits.deadline_s)
            serve.run(application(replicas, limits, token), name=APP, route_prefix="/")
        except (NoEngine, RuntimeError) as error:
            raise UserError(f"the server did not start: {error}") from error
        yield
    finally:
        # a local Ray ends as a whole, at once; Serve's own end takes seconds and prints what it did to its actors
        if os.environ.get(ADDRESS):
            serve.shutdown()


def _watch(console: Console) -> None:
    """Says when the number of engines changes; never returns."""
    known = 0
    while True:
        running = sum(applications().values())
        if running != known:
            say(console, f"serve: {running} {ENGINE}(s) answer")
            known = running
        time.sleep(LOOK_S)
