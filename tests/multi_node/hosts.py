"""Hosts out of network namespaces, joined by a bridge. Call it in new network and mount namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SUBNET = "10.77.0"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """A namespace with one address."""

    number: int

    @property
    def name(self) -> str:
        return f"host{self.number}"

    @property
    def address(self) -> str:
        return f"{SUBNET}.{self.number}"

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def link(self, state: str) -> None:
        """``up`` or ``down``, at the bridge."""
        ip("link", "set", f"port{self.number}", state)

    def pids(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]

    def kill(self) -> None:
        """Power off: every process, at once."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def make_hosts(count: int) -> list[Host]:
    """``count`` hosts on one bridge, which has no way out."""
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "bridge0", "type", "bridge")
    ip("link", "set", "bridge0", "up")
    hosts = [Host(number) for number in range(1, count + 1)]
    for host in hosts:
        ip("netns", "add", host.name)
        ip("link", "add", f"port{host.number}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
        ip("link", "set", f"port{host.number}", "master", "bridge0", "up")
        inside = ("-n", host.name)
        ip(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
        ip(*inside, "link", "set", "eth0", "up")
        ip(*inside, "link", "set", "lo", "up")
    return hosts


if __name__ == "__main__":
    make_hosts(2)
