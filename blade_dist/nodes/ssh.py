"""The same script on every host of a file, over ssh."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from blade_dist.errors import UserError

NO_CONNECTION = 255
"""Exit status of ssh itself."""

END_S = 30.0
"""How long the other hosts may take once one has ended."""


def remote_command(root: Path, head: str, rank: int, nodes: int, arguments: Sequence[str]) -> str:
    """What a host's shell runs. The token comes on its standard input, whose end is a request to stop.

    On a command line every user of the host could read the token. And ssh passes no signal on, but the end of its
    standard input it does, also when this side dies without a word.
    """
    member = f"HEAD_ADDR={shlex.quote(head)} NODE_RANK={rank} NODES={nodes} STOP_AT_EOF=1"
    script = shlex.join(["launch/multi_node.sh", *arguments])
    return f"cd {shlex.quote(str(root))} && read -r RAY_AUTH_TOKEN && export RAY_AUTH_TOKEN && {member} exec {script}"


def ssh_command(host: str, remote: str) -> list[str]:
    """Fails instead of waiting for a password, and ends where the host is silent for a minute."""
    options = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=6"]
    return ["ssh", *(part for option in options for part in ("-o", option)), host, remote]


def run_hosts(root: Path, hosts: Sequence[str], arguments: Sequence[str], token: str) -> int:
    """Runs the script on all hosts at once; the first is the head.

    Returns:
        The first exit status that is not 0, in the order of ``hosts``; else 0.

    Raises:
        UserError: ssh did not reach a host.
    """
    running = [
        _start(ssh_command(host, remote_command(root, hosts[0], rank, len(hosts), arguments)), host, token)
        for rank, host in enumerate(hosts)
    ]
    try:
        _wait(running)
    finally:
        for process in running:
            _close(process.stdin)
        deadline = time.monotonic() + END_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    for host, process in zip(hosts, running, strict=True):
        if process.returncode == NO_CONNECTION:
            raise UserError(f"--hosts: {host} was not reached by ssh (try: ssh -o BatchMode=yes {host} true)")
    return next((process.returncode for process in running if process.returncode), 0)


def _wait(running: Sequence[subprocess.Popen[str]]) -> None:
    """Until the head has ended, or has not although another host failed."""
    failed: float | None = None
    while running[0].poll() is None:
        if failed is None and any(process.poll() for process in running):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > END_S:
            return
        time.sleep(0.2)


def stop_at_end_of_input() -> None:
    """Turns the end of standard input into a SIGTERM of this process."""

    def wait() -> None:
        while sys.stdin.read(1):
            pass
        os.kill(os.getpid(), 15)

    threading.Thread(target=wait, daemon=True).start()


def _start(command: list[str], host: str, token: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    try:
        process.stdin.write(token + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # its exit status says why
    threading.Thread(target=_relay, args=(process.stdout, host), daemon=True).start()
    return process


def _relay(output: IO[str], host: str) -> None:
    for line in output:
        sys.stdout.write(f"{host}: {line}")
        sys.stdout.flush()


def _close(stream: IO[Any] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except BrokenPipeError:
        return
