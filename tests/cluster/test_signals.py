"""A signal ends a command by one exception; in training the first one asks, the second one ends."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blade_dist.cluster.signals import Stopped, first_signal_asks, kept_handlers, signals_raise


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_and_handlers_are_put_back(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    what = f"stopped by {number.name}: what was finished is kept; the same"
    with pytest.raises(Stopped, match=what) as stopped, signals_raise():
        signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is before


def test_the_first_signal_asks_and_the_second_raises() -> None:
    asked: list[str] = []
    with first_signal_asks(lambda: asked.append("to end")) as heard:
        assert heard.number is None
        signal.raise_signal(signal.SIGTERM)
        assert (asked, heard.number) == (["to end"], signal.SIGTERM)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
    assert asked == ["to end"]


def wait_as_ray_does() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except Stopped:
        raise KeyboardInterrupt from None


def test_what_ray_raises_while_it_waits_keeps_the_signal() -> None:
    with pytest.raises(Stopped, match="SIGTERM") as stopped, signals_raise():
        wait_as_ray_does()
    assert stopped.value.exit_code == 143


def test_a_handler_that_a_library_sets_is_replaced_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with kept_handlers():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_that_says_twice_that_it_closes_asks_once() -> None:
    asked: list[str] = []
    with first_signal_asks(lambda: asked.append("to end")) as heard:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert (asked, heard.number) == (["to end"], signal.SIGHUP)
        with pytest.raises(Stopped, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def heard_by_default() -> Iterator[None]:
    """The tests themselves may run under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def nohup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("nohup")
def test_what_nohup_ignores_stays_ignored() -> None:
    with signals_raise(), first_signal_asks(lambda: None) as heard:
        signal.raise_signal(signal.SIGHUP)
        assert heard.number is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import blade_dist.cli, blade_dist.stages.data
from blade_dist.cluster.signals import first_signal_asks, Stopped

def stage(config, console):
    with first_signal_asks(lambda: None) as heard:
        console.print("ready")
        while heard.number is None:
            time.sleep(0.05)
        for part in range(20):
            console.print(f"part {part}")
            time.sleep(0.01)
    config.run.dir.mkdir(exist_ok=True)
    (config.run.dir / "saved").touch()
    raise Stopped(heard.number, "a step is kept")

blade_dist.stages.data.data_stage = stage
sys.argv = ["blade-dist", "data", "my.yaml", *sys.argv[1:]]
blade_dist.cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("option", [[], ["--verbose"]])
def test_a_closed_terminal_ends_a_command_after_its_step(option: list[str], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("run: {dir: mine}\n")
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", "--wait", sys.executable, "-c", PROGRAM, *option]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=env) as running:
        os.close(theirs)
        shown = b""
        while b"ready" not in shown:
            shown += os.read(ours, 1000)
        os.close(ours)
        assert running.wait(120) == 129
    assert (tmp_path / "mine" / "saved").exists()
    if not option:
        assert (tmp_path / "mine" / "log.txt").read_text().startswith("stopped by SIGHUP: a step is kept")


CLUSTER = """
import os, signal, time, ray
from blade_dist.cluster.runtime import join_ray

join_ray(None, 1, "ray.address")

@ray.remote
class Actor:
    def answer(self):
        return 7

actor = Actor.remote()
ray.get(actor.answer.remote())
signal.signal(signal.SIGHUP, lambda *_: None)
os.killpg(0, signal.SIGHUP)
time.sleep(2)
other = Actor.options(num_cpus=0).remote()
print(ray.get([actor.answer.remote(), other.answer.remote()], timeout=60))
"""


@pytest.mark.slow
def test_the_processes_of_a_local_cluster_outlive_the_terminal() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    env.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", CLUSTER]
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, env=env, start_new_session=True, timeout=240
    )
    assert ended.stdout.splitlines()[-1:] == ["[7, 7]"], ended.stderr[-2000:]
