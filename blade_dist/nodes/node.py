"""What one node does: the head starts Ray, waits for the others and runs the command; the others serve meanwhile."""

from __future__ import annotations

import logging
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blade_dist.errors import UserError
from blade_dist.nodes.membership import Membership
from blade_dist.nodes.processes import end, start
from blade_dist.nodes.raycluster import (
    Head,
    RayOptions,
    check_free,
    environment,
    own_address,
    resolve,
    start_command,
    wait_for_port,
)

_LOG = logging.getLogger(__name__)
POLL_S = 1.0
LOST_S = 60.0
"""A node that does not reach the head for so long gives up; a command that lost a node has so long to end."""

LEAVE_S = 15.0
"""How long the head waits for the others to leave before it stops Ray."""

FAILED = 1
"""Exit status where the cluster, not the command, failed."""


@dataclass(frozen=True)
class Job:
    """A command, and the cluster that it needs."""

    member: Membership
    options: RayOptions
    wait_s: float
    """How long nodes may take to come."""
    command: tuple[str, ...]


def run_node(job: Job) -> int:
    """This node's part, from start to end; returns the command's exit status.

    Raises:
        UserError: the cluster did not come about, or broke.
    """
    head = resolve(job.member.head)
    with tempfile.TemporaryDirectory(prefix="blade-") as folder:
        log = Path(folder) / "ray.log"
        return _run_head(job, head, log) if job.member.is_head else _serve(job, head, log)


def _run_head(job: Job, head: str, log: Path) -> int:
    """The head ends in this order: the command, the status for the other nodes, Ray.

    A node that lost the head before it had read the status could not tell success from a crash.
    """
    check_free(head, job.options.port, "--port")
    check_free("127.0.0.1", job.options.dashboard_port, "--dashboard-port")
    ray = start(start_command(head, None, job.options), log, environment())
    address = f"{head}:{job.options.port}"
    status = FAILED
    try:
        wait_for_port(head, job.options.port, job.wait_s, lambda: _check(ray, log, head))
        cluster = Head(address)
        _wait_for_nodes(cluster, job, lambda: _check(ray, log, head))
        command = start(job.command, env={"RAY_ADDRESS": address})
        try:
            status = _watch(command, cluster, lambda: _check(ray, log, head))
        finally:
            end(command)
        return status
    finally:
        _dismiss(address, status)
        end(ray)


def _serve(job: Job, head: str, log: Path) -> int:
    here = own_address(head, job.options.port)
    wait_for_port(head, job.options.port, job.wait_s, lambda: None)
    cluster = Head(f"{head}:{job.options.port}")
    ray = start(start_command(here, head, job.options), log, environment())
    _LOG.info("node %s: serving the head %s", here, head)
    try:
        answered = time.monotonic()
        while True:
            try:
                status = cluster.status()
                answered = time.monotonic()
            except ConnectionError:
                status = None
            if status is not None:
                return status
            if time.monotonic() - answered > LOST_S:
                raise UserError(f"node {here}: the head {head} did not answer for {LOST_S:.0f} s")
            _check(ray, log, here)
            time.sleep(POLL_S)
    finally:
        end(ray)


def _wait_for_nodes(cluster: Head, job: Job, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + job.wait_s
    shown = 0
    while True:
        there = sorted(address for address, alive in cluster.nodes().items() if alive)
        if len(there) != shown:
            shown = len(there)
            _LOG.info("%d of %d nodes are there: %s", shown, job.member.nodes, ", ".join(there))
        if shown >= job.member.nodes:
            return
        check()
        if time.monotonic() > deadline:
            raise UserError(
                f"{shown} of {job.member.nodes} nodes came within {job.wait_s:.0f} s (--wait): {', '.join(there)}; "
                "what the others report is in their output"
            )
        time.sleep(0.3)


def _watch(command: subprocess.Popen[Any], cluster: Head, check: Callable[[], None]) -> int:
    """Waits for the command's end; where a node is lost, the command goes on with the others or ends by itself."""
    said: set[str] = set()
    while True:
        try:
            return command.wait(POLL_S)
        except subprocess.TimeoutExpired:
            check()
        lost = {address for address, alive in _nodes(cluster).items() if not alive}
        if new := lost - said:
            _LOG.warning("node %s is lost", ", ".join(sorted(new)))
            said |= new


def _nodes(cluster: Head) -> dict[str, bool]:
    try:
        return cluster.nodes()
    except ConnectionError:
        return {}


def _dismiss(address: str, status: int) -> None:
    """Tells the others to leave, and waits until they have."""
    try:
        cluster = Head(address)
        cluster.announce(status)
        deadline = time.monotonic() + LEAVE_S
        while sum(cluster.nodes().values()) > 1 and time.monotonic() < deadline:
            time.sleep(0.3)
    except (ConnectionError, UserError):
        return  # Ray is not there: so are the others


def _check(ray: subprocess.Popen[Any], log: Path, node: str) -> None:
    """Refuses to go on once ``ray start`` has ended.

    Raises:
        UserError: it has; with its last words.
    """
    if ray.poll() is None:
        return
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "ismatch" in line] or lines or ["it wrote nothing"]
    raise UserError(f"node {node}: Ray ended with status {ray.returncode}: {telling[-1][:300]}")
