"""Whatever a function of the user's does to its process when it is tried, the command says which one it was."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from blade_dist.errors import UserError
from blade_dist.rewards import tried
from blade_dist.rewards.given import PRINTED
from blade_dist.rewards.tried import SHOWN, try_own
from blade_dist.store.arrow import read_table
from tests.helpers.catalogs import make_catalog

MODULE = """
import os, signal, subprocess, sys, time
from pathlib import Path

def fine(lists):
    return lists.items[:, 0] * 0.0

def leaves(lists):
    os._exit(7)

def leaves_as_if_well(lists):
    os._exit(0)

def asks_to_leave(lists):
    sys.exit(3)

def crashes(lists):
    os.kill(os.getpid(), signal.SIGSEGV)

def hangs(lists):
    Path(__file__).with_name("pid").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    time.sleep(600)

def raises(lists):
    raise KeyError("price")

def prints(lists):
    print("y" * 10**5)
    os.write(1, b"x" * 10**6)
    return lists.items[:, 0] * 0.0
"""
PLENTY_S = 300.0
"""Of a process that ends by itself, however slow the machine is."""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "odd_rewards.py").write_text(MODULE)
    (tmp_path / "leaves_early.py").write_text("import os\nos._exit(5)\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def attempt(folder: Path, *names: str, limit_s: float = PLENTY_S) -> None:
    own = tuple((f"odd_rewards:{name}", "reward.weights") for name in names)
    try_own(own, make_catalog(), 3, folder / "incidents", limit_s)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leaves", "it ended its process with exit code 7"),
        ("leaves_as_if_well", "it ended its process with exit code 0"),
        ("crashes", "its process was ended by SIGSEGV"),
        ("asks_to_leave", "raised SystemExit: 3"),
        ("raises", "raised KeyError: 'price'"),
    ],
)
def test_its_end_is_one_line_with_its_lists(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        attempt(tmp_path, "fine", name)
    text = str(error.value)
    assert text.startswith(f"reward.weights odd_rewards:{name}: {message}")
    assert "\n" not in text
    (kept,) = (tmp_path / "incidents").iterdir()
    assert f"called with the lists in {kept}" in text
    assert read_table(kept)["items"].to_pylist() == [["i0", "i1", "i2"], [None] * 3]
    assert read_table(kept).schema.metadata[b"function"] == f"odd_rewards:{name}".encode()


def test_one_that_hangs_is_ended_with_all_that_it_has_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"odd_rewards:hangs: did not answer within reward.timeout_s = 4 s when it was"):
        attempt(tmp_path, "hangs", limit_s=4)
    assert list((tmp_path / "incidents").iterdir())
    assert 'odd_rewards.py", line' in capsys.readouterr().err  # where it was
    started = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    until = time.monotonic() + PLENTY_S
    while started.exists() and started.read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_module_that_ends_the_process_is_named(tmp_path: Path) -> None:
    own = (("leaves_early:f", "evaluate.metrics"),)
    with pytest.raises(UserError) as error:
        try_own(own, make_catalog(), 3, tmp_path / "incidents", PLENTY_S)
    expected = "evaluate.metrics leaves_early:f: it ended its process with exit code 5 while it was imported"
    assert str(error.value).startswith(expected)


def test_what_passes_leaves_nothing_and_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog, own = make_catalog(), (("odd_rewards:prints", "reward.weights"),)
    try_own(own, catalog, 3, tmp_path / "incidents", PLENTY_S)
    assert not list((tmp_path / "incidents").iterdir())
    said = capsys.readouterr().err
    assert "y" * PRINTED in said
    assert "y" * (PRINTED + 1) not in said
    assert "bytes are left out" in said
    assert "odd_rewards:prints printed 100001 characters in one call" in said
    assert len(said) < 3 * SHOWN
    monkeypatch.setattr(tried.subprocess, "Popen", None)
    try_own(own, catalog, 3, tmp_path / "incidents", PLENTY_S)


def test_a_fault_of_ours_is_none_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tried.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="no function could be tried, exit code 1"):
        attempt(tmp_path, "fine")


def test_an_interrupted_command_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout: float | None = None) -> int:
            if timeout is not None:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait()

    monkeypatch.setattr(tried.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path, "hangs")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
