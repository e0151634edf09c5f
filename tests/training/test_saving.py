"""A checkpoint has its name when it is whole, and a full disk ends in one line with the older one untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
import ray.train

from blade_dist.errors import FullDiskError
from blade_dist.store.checkpoints import PROGRESS, take_whole, unfinished_folder
from blade_dist.store.files import write_json
from blade_dist.training import saving
from blade_dist.training.saving import Saver
from tests.helpers.paths import ROOT


@pytest.fixture(autouse=True)
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What Ray Train is told."""
    told: list[dict[str, float]] = []

    def report(numbers: dict[str, float], checkpoint: Any, **_: Any) -> None:
        assert Path(checkpoint.path).is_dir()
        told.append(numbers)

    monkeypatch.setattr(ray.train, "report", report)
    return told


def save(parent: Path, step: int, more: Callable[[Path], object] = lambda _: None) -> None:
    """A checkpoint of one rank, whole when this returns; ``more`` may add to it."""
    with Saver(parent) as saver:
        saver.start(step, {"score": step / 10}, partial(_write, more=more))


def _write(folder: Path, more: Callable[[Path], object]) -> None:
    write_json(folder / PROGRESS, {"layout": {}})
    more(folder)


def weights_below(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_bytes(bytes(100))


def whole_steps(parent: Path) -> list[int]:
    return [one.step for one in take_whole(parent)[0]]


def test_it_has_its_name_and_is_reported_when_it_is_whole(tmp_path: Path, reported: list[dict[str, float]]) -> None:
    def before(folder: Path) -> None:
        weights_below(folder)
        seen.append((whole_steps(tmp_path), len(reported)))

    seen: list[tuple[list[int], int]] = []
    for step in (1, 2):
        save(tmp_path, step, before)
    assert seen == [([], 0), ([1], 1)]
    whole, lines = take_whole(tmp_path)
    assert [one.numbers for one in whole] == reported == [{"step": 1, "score": 0.1}, {"step": 2, "score": 0.2}]
    assert not lines
    assert (whole[0].folder / "deep" / "weights").read_bytes() == bytes(100)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_training_goes_on_meanwhile(tmp_path: Path, reported: list[dict[str, float]]) -> None:
    """And hears of it later; one is under way at a time."""
    goes_on, seen = Event(), list[list[int]]()
    with Saver(tmp_path) as saver:
        saver.start(1, {}, partial(_write, more=lambda _: goes_on.wait(60)))
        saver.look()
        assert (reported, whole_steps(tmp_path)) == ([], [])
        goes_on.set()
        saver.start(2, {}, partial(_write, more=lambda _: seen.append(whole_steps(tmp_path))))
        assert reported == [{"step": 1}]
        wait_until(lambda: whole_steps(tmp_path) == [1, 2])
        while len(reported) < 2:
            saver.look()
    assert seen == [[1]]
    assert reported == [{"step": 1}, {"step": 2}]


def test_a_training_that_fails_leaves_the_checkpoint_under_way_whole(
    tmp_path: Path, reported: list[dict[str, float]]
) -> None:
    def train() -> None:
        with Saver(tmp_path) as saver:
            saver.start(1, {}, partial(_write, more=lambda _: goes_on.wait(60)))
            Timer(0.2, goes_on.set).start()
            raise KeyError("bug")

    goes_on = Event()
    with pytest.raises(KeyError):
        train()
    assert whole_steps(tmp_path) == [1]
    assert not reported


def test_all_of_it_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest after all others, and at last the name itself."""
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path).as_posix())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save(tmp_path, 1, weights_below)
    part = ".checkpoint_00000001.part"
    at = {name: len(synced) - 1 - synced[::-1].index(name) for name in synced}
    others = [part + name for name in ("/deep/weights", "/deep", "/numbers.json", f"/{PROGRESS}")]
    assert max(at[name] for name in others) < at[f"{part}/manifest.json.tmp"] < at[part] < at["."]


@pytest.mark.parametrize("hears", [Saver.finish, lambda saver: saver.start(3, {}, weights_below), Saver.look])
def test_a_failed_save_leaves_nothing_but_the_older_one(
    tmp_path: Path, reported: list[dict[str, float]], hears: Callable[[Saver], None]
) -> None:
    def fail(_: Path) -> None:
        raise KeyError("bug")

    save(tmp_path, 1)
    unfinished_folder(tmp_path, 7).mkdir()  # of a writer that died
    saver = Saver(tmp_path)
    saver.start(2, {}, fail)
    with pytest.raises(KeyError):
        wait_until(lambda: hears(saver))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_00000001"]
    assert len(reported) == 1


def test_a_rank_that_has_failed_is_not_waited_for_by_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' threads wait for its part; it is heard at the next look."""
    heard: list[Saver] = []

    def hear(saver: Saver) -> None:
        heard.append(saver)

    monkeypatch.setattr(saving, "from_all", lambda ended, group=None: [ended, True] if group is None else [ended])
    monkeypatch.setattr(Saver, "finish", hear)
    saver = Saver(tmp_path)
    saver.look()
    assert not heard
    goes_on = Event()
    saver.start(1, {}, partial(_write, more=lambda _: goes_on.wait(60)))
    heard.clear()
    saver.look()
    assert heard == [saver]
    goes_on.set()


def wait_until(seen: Callable[[], object]) -> None:
    """Raises what ``seen`` does."""
    ends = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_disk_that_holds_something_else_is_found_before_the_checkpoint_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[dict[str, float]]
) -> None:
    def break_a_file(folder: Path, known: Any) -> None:
        (folder / PROGRESS).write_bytes((folder / PROGRESS).read_bytes()[::-1])

    monkeypatch.setattr(saving, "write_manifest", break_a_file)
    with pytest.raises(RuntimeError, match=r"progress\.json has another checksum .* the disk does not hold"):
        save(tmp_path, 1)
    assert not list(tmp_path.iterdir())
    assert not reported


def test_an_error_that_means_a_full_disk_is_one_line(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(FullDiskError, match=r"the checkpoint of step 2 does not fit .* it goes on from step 1"):
        save(tmp_path, 2, lambda _: Path("/dev/full").write_text("x"))
    assert whole_steps(tmp_path) == [1]
    save(tmp_path, 2)
    assert whole_steps(tmp_path) == [1, 2]


ON_A_SMALL_DISK = """
import shutil
import sys
from pathlib import Path

import ray.train
import torch
from safetensors.torch import save_file

from blade_dist.errors import FullDiskError
from blade_dist.store.checkpoints import PROGRESS, take_whole
from blade_dist.store.files import write_json
from blade_dist.training.saving import Saver

ray.train.report = lambda *_, **__: None
WRITERS = {
    "torch": lambda tensor, path: torch.save(tensor, path),
    "safetensors": lambda tensor, path: save_file({"tensor": tensor}, path),
    "bytes": lambda tensor, path: path.write_bytes(tensor.numpy().tobytes()),
}


def save(step, megabytes):
    def write_all(folder):
        write_json(folder / PROGRESS, {"layout": {}})
        write(torch.zeros(megabytes * 2**20, dtype=torch.uint8), folder / "tensor")

    with Saver(parent) as saver:
        saver.start(step, {}, write_all)


def refused(step, megabytes):
    try:
        save(step, megabytes)
    except FullDiskError as error:
        assert f"the checkpoint of step {step} does not fit into {parent}" in str(error), error
        assert f"it goes on from step {step - 1}" in str(error), error
        save(step, 3)  # there is room where the half of the other one was
        return str(error)
    raise AssertionError("the disk was not full")


for name, write in WRITERS.items():
    parent = Path(sys.argv[1]) / name
    save(1, 2)
    refused(2, 20)  # that it is larger shows only when the disk is full
    assert [one.step for one in take_whole(parent)[0]] == [1, 2], name
    (parent / "other").write_bytes(bytes(2**20))
    try:
        save(3, 1)
    except FullDiskError as error:
        assert "about 3.1 MB are needed, and 2." in str(error), error
    else:
        raise AssertionError("it was begun")
    assert [one.step for one in take_whole(parent)[0]] == [1, 2], name
    shutil.rmtree(parent)
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.call(["unshare", "-rm", "true"], stderr=subprocess.DEVNULL) != 0,
    reason="no small disk can be mounted here",
)
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """Whichever library finds it, and whether it shows before or meanwhile."""
    (tmp_path / "script.py").write_text(ON_A_SMALL_DISK)
    (tmp_path / "disk").mkdir()
    mounted = f"mount -t tmpfs -o size=8m small {tmp_path / 'disk'}"
    run = f"exec {sys.executable} {tmp_path / 'script.py'} {tmp_path / 'disk'}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mounted} && {run}"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
