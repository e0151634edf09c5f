"""What is kept of a process that hangs or died."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blade_dist.rollouts.incident import NO_STACKS, last_words

HANGS = """
import faulthandler, signal, sys, time
faulthandler.register(signal.SIGUSR1)
def asleep():
    print("began", file=sys.stderr, flush=True)
    time.sleep(600)
asleep()
"""


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that sleeps in ``asleep``, and its log."""
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-c", HANGS], stderr=errors)
    try:
        while not log.stat().st_size:
            assert process.poll() is None
        yield process, log
    finally:
        process.kill()
        process.wait()


def test_a_stopped_process_is_read_from_outside(hanging: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, log = hanging
    process.send_signal(signal.SIGSTOP)
    words = last_words(process.pid, str(log), silent=True)
    if NO_STACKS in words:
        pytest.skip(words.splitlines()[0])  # a container may forbid one process to read another
    assert words.index("asleep (<string>") < words.index("The end of its log") < words.rindex("began")


def test_without_py_spy_a_process_writes_its_own_stacks(
    hanging: tuple[subprocess.Popen[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, log = hanging
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    words = last_words(process.pid, str(log), silent=True)
    assert words.startswith("No stacks by py-spy: [Errno 2] No such file or directory: 'py-spy'\n")
    assert words.index("began") < words.index("asleep")


def test_of_a_dead_process_the_log_is_kept(hanging: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, log = hanging
    process.kill()
    process.wait()
    assert last_words(process.pid, str(log), silent=True).endswith("began\n\n")
    assert "No such file" in last_words(process.pid, str(log.with_name("gone")), silent=False)
