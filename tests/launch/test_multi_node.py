"""``launch/multi_node.sh`` on one node: what cannot work is one line, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.paths import ROOT

SCRIPT = ROOT / "launch" / "multi_node.sh"
TOKEN = "c" * 64

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def environment(home: Path, **variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return {**clean, "HOME": str(home), **variables}


def fails(home: Path, *arguments: str, **variables: str) -> str:
    """The last line of a call that ends with status 2."""
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=environment(home, **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_nodes_without_a_common_token_are_refused(tmp_path: Path) -> None:
    said = fails(tmp_path, "train", "x.yaml", HEAD_ADDR="127.0.0.1", NODE_RANK="0", NODES="2")
    assert said.startswith("multi_node: error: RAY_AUTH_TOKEN: not set")


def test_an_occupied_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fails(tmp_path, f"--port={port}", "train", "x.yaml")
    assert said.startswith(f"multi_node: error: --port: 127.0.0.1:{port} can't be taken")


def test_a_head_that_nobody_reaches_is_named(tmp_path: Path) -> None:
    port, member = free_port(), {"NODE_RANK": "1", "NODES": "2", "RAY_AUTH_TOKEN": TOKEN}
    said = fails(tmp_path, f"--port={port}", "--wait=2", "train", "x.yaml", HEAD_ADDR="127.0.0.1", **member)
    assert said.startswith(f"multi_node: error: HEAD_ADDR: 127.0.0.1:{port} not reached within 2 s")
    said = fails(tmp_path, "train", "x.yaml", HEAD_ADDR="no-such-host.invalid", **member)
    assert said.startswith("multi_node: error: HEAD_ADDR: no-such-host.invalid is not known here")


def test_a_host_that_ssh_does_not_reach_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("far-away\n")
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = fails(tmp_path, f"--hosts={tmp_path / 'hosts'}", "train", "x.yaml", PATH=path)
    assert said.startswith("multi_node: error: --hosts: far-away was not reached by ssh")


@pytest.fixture
def folder() -> Path:
    """Short, as the names of Ray's sockets must be."""
    return Path(tempfile.mkdtemp(prefix="mn"))


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, folder: Path) -> None:
    ports = [f"--port={free_port()}", f"--dashboard-port={free_port()}"]
    launcher = subprocess.Popen(
        ["bash", str(SCRIPT), *ports, f"--temp-dir={folder}", "--num-cpus=1", "doctor"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert launcher.stdout is not None
    said = ""
    while "1 of 1 nodes are there" not in said:
        assert launcher.poll() is None, said
        said += launcher.stdout.readline()
    time.sleep(1)  # the command has begun
    below = psutil.Process(launcher.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in below)
    launcher.send_signal(signal.SIGINT)
    rest, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGINT, rest
    assert "nothing is left running" in rest
    assert not [process for process in below if process.is_running()]
