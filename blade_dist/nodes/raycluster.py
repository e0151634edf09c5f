"""One node's part of a Ray cluster: how it is started, and what the head knows of the others."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.exceptions
from ray._raylet import GcsClient  # type: ignore[attr-defined] # what the `ray` command itself uses

from blade_dist.errors import UserError

ENVIRONMENT = {
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_grpc_keepalive_timeout_ms": "60000",
}
"""A node counts as lost after some 40 s of silence (a check of 5 s every 3 s), so that a short break is survived."""


def environment() -> dict[str, str]:
    """What ``ray start`` needs beside the caller's environment; ``python`` in a job's command is this one."""
    return {**ENVIRONMENT, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


NAMESPACE, DONE = b"blade_dist", b"exit_status"
"""Where the head leaves the command's exit status for the other nodes."""

ALIVE = 0
"""Of Ray's ``GcsNodeInfo.GcsNodeState``."""

CALL_S = 5.0
"""Deadline of one call to the head."""


@dataclass(frozen=True)
class RayOptions:
    """What ``ray start`` is given; None: Ray's default."""

    port: int
    dashboard_port: int
    num_cpus: int | None
    num_gpus: int | None
    temp_dir: str | None


def start_command(address: str, head: str | None, options: RayOptions) -> list[str]:
    """The ``ray start`` of one node.

    Args:
        address: of this node, as the others reach it.
        head: address of the head; None on the head itself.
        options: of the cluster.
    """
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",  # it is our child, and ends with us; else it would leave daemons behind
        "--disable-usage-stats",
        "--log-style=record",
        "--log-color=false",
    ]
    command += [f"--node-ip-address={address}"]
    if head is None:
        # the dashboard starts jobs for whoever reaches it: only the head itself does
        command += ["--head", f"--port={options.port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
        command += [f"--dashboard-port={options.dashboard_port}"]
        command += [] if options.temp_dir is None else [f"--temp-dir={options.temp_dir}"]
    else:
        command += [f"--address={head}:{options.port}"]
    given = {"--num-cpus": options.num_cpus, "--num-gpus": options.num_gpus}
    return command + [f"{name}={value}" for name, value in given.items() if value is not None]


class Head:
    """The head, as any node sees it through Ray's global control store.

    Not as a Ray driver: that needs a raylet on this node, which may not have joined yet.
    """

    def __init__(self, address: str) -> None:
        """Connects.

        Raises:
            UserError: the head requires another token.
            ConnectionError: nothing answers.
        """
        self._client = _call(lambda: GcsClient(address=address), address)
        self._address = address

    def nodes(self) -> dict[str, bool]:
        """Address of every node that ever joined, and whether it lives."""
        infos: Any = _call(lambda: self._client.get_all_node_info(timeout=CALL_S), self._address)
        # a node that was lost and came back is there twice, once dead
        alive = {info.node_manager_address for info in infos.values() if info.state == ALIVE}
        return {info.node_manager_address: info.node_manager_address in alive for info in infos.values()}

    def announce(self, status: int) -> None:
        """Leaves the command's exit status for the other nodes."""
        _call(lambda: self._client.internal_kv_put(DONE, b"%d" % status, True, NAMESPACE, CALL_S), self._address)

    def status(self) -> int | None:
        """The command's exit status, None while it runs."""
        value: Any = _call(lambda: self._client.internal_kv_get(DONE, NAMESPACE, CALL_S), self._address)
        return None if value is None else int(value)


def _call(function: Callable[[], Any], address: str) -> Any:
    try:
        return function()
    except ray.exceptions.AuthenticationError:
        raise UserError(
            f"the head {address} refuses this node's token: RAY_AUTH_TOKEN must be the same on every node"
        ) from None
    except ray.exceptions.RpcError as error:
        raise ConnectionError(f"the head {address} does not answer: {' '.join(str(error).split())[:120]}") from None


def own_address(head: str, port: int) -> str:
    """This node's address on the way to ``head`` (no packet is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((head, port))
        return str(way.getsockname()[0])


def resolve(host: str) -> str:
    """The address of a host.

    Raises:
        UserError: no such host.
    """
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise UserError(f"HEAD_ADDR: {host} is not known here ({error.strerror or error})") from None


def check_free(address: str, port: int, option: str) -> None:
    """Refuses an occupied port.

    Raises:
        UserError: it is occupied, or the address is not this node's.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            raise UserError(f"{option}: {address}:{port} can't be taken on this node ({error.strerror})") from None


def wait_for_port(address: str, port: int, deadline_s: float, alive: Callable[[], None]) -> None:
    """Waits until something listens; calls ``alive`` meanwhile, which raises where waiting is in vain.

    Raises:
        UserError: nothing listens in time.
    """
    end = time.monotonic() + deadline_s
    while True:
        try:
            return socket.create_connection((address, port), timeout=2).close()
        except OSError as error:
            alive()
            if time.monotonic() > end:
                reason = error.strerror or "no answer"
                raise UserError(
                    f"HEAD_ADDR: {address}:{port} not reached within {deadline_s:.0f} s ({reason})"
                ) from None
        time.sleep(0.3)
