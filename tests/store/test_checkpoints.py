"""Which checkpoints are whole, what becomes of the others, and what is said when there is no room."""

from __future__ import annotations

import errno
import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayTaskError

from blade_dist.errors import FullDiskError
from blade_dist.store import checkpoints
from blade_dist.store.checkpoints import (
    NUMBERS,
    PROGRESS,
    Layout,
    check_room,
    checkpoint_folder,
    finish,
    is_full,
    remove_unfinished,
    saved_step,
    take_whole,
    unfinished_folder,
)
from blade_dist.store.files import write_json
from blade_dist.store.whole import files_below, sums, write_manifest

ONE = Layout()


def save(
    parent: Path, step: int, score: float | None = None, layout: Layout | None = ONE, weights: bytes = b"weights"
) -> Path:
    """A whole checkpoint."""
    folder = unfinished_folder(parent, step)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(weights)
    write_json(folder / NUMBERS, {"step": step} if score is None else {"step": step, "score": score})
    write_json(folder / PROGRESS, {"ranks": 1} if layout is None else {"layout": asdict(layout)})
    write_manifest(folder, sums(folder, files_below(folder)))
    finish(folder, checkpoint_folder(parent, step))
    return checkpoint_folder(parent, step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_ones_are_taken_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (12, 4, 100_000_000):
        save(tmp_path, step, score=step / 10, layout=Layout(2, 3))
    whole, lines = take_whole(tmp_path)
    assert [(one.step, one.layout, one.numbers["score"]) for one in whole] == [
        (4, Layout(2, 3), 0.4),
        (12, Layout(2, 3), 1.2),
        (10**8, Layout(2, 3), 1e7),
    ]
    assert not lines
    assert saved_step(tmp_path) == 10**8


def test_damaged_ones_step_aside_and_are_named(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        save(tmp_path, step)
    (checkpoint_folder(tmp_path, 12) / "weights").write_bytes(b"weighty")
    (checkpoint_folder(tmp_path, 8) / "manifest.json").unlink()
    whole, (first, second) = take_whole(tmp_path)
    assert [one.step for one in whole] == [4]
    assert "checkpoint_00000008 is skipped: manifest.json is missing; it is now damaged_checkpoint_00000008" in first
    assert "checkpoint_00000012 is skipped: weights has another checksum" in second
    assert names(tmp_path) == ["checkpoint_00000004", "damaged_checkpoint_00000008", "damaged_checkpoint_00000012"]
    save(tmp_path, 8)
    assert take_whole(tmp_path)[1] == []  # what stands aside is not looked at again
    (checkpoint_folder(tmp_path, 8) / "weights").unlink()
    take_whole(tmp_path)  # and is replaced by what is damaged next
    assert "weights" not in names(tmp_path / "damaged_checkpoint_00000008")


def test_folders_of_other_names_are_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 4).rename(tmp_path / "checkpoint_copy")
    (tmp_path / "checkpoint_manager_snapshot.json").touch()
    whole, (line,) = take_whole(tmp_path)
    assert not whole
    assert "checkpoint_copy is ignored" in line
    assert names(tmp_path) == ["checkpoint_copy", "checkpoint_manager_snapshot.json"]


def test_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 4)
    unfinished_folder(tmp_path, 8).mkdir()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint_00000004"]


def test_a_step_that_is_saved_again_replaces_the_folder(tmp_path: Path) -> None:
    save(tmp_path, 4)
    save(tmp_path, 4, weights=b"others")
    assert (checkpoint_folder(tmp_path, 4) / "weights").read_bytes() == b"others"


def test_a_checkpoint_that_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_room(tmp_path, 4)  # nothing is known of its size
    save(tmp_path, 4, weights=bytes(3_000_000))
    check_room(tmp_path, 8)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000, total=10_000_000))
    with pytest.raises(FullDiskError) as error:
        check_room(tmp_path, 8)
    assert str(error.value) == (
        f"the disk is full: the checkpoint of step 8 does not fit into {tmp_path}: about 3.0 MB are needed, and 2.0 MB "
        "are free; make room, then run the same command again: it goes on from step 4, whose checkpoint is whole"
    )
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: SimpleNamespace(free=0, total=0))
    check_room(tmp_path, 8)  # a file system that does not know


def test_a_full_disk_is_known_by_any_error_that_it_causes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space left") as failed:
        Path("/dev/full").write_text("x")
    assert is_full(tmp_path, failed.value)
    assert is_full(tmp_path, RayTaskError("flush", "Traceback ...", failed.value).as_instanceof_cause())
    torch_s = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert not is_full(tmp_path, torch_s)
    assert not is_full(tmp_path / "missing", torch_s)
    assert names(tmp_path) == []

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    assert is_full(tmp_path, torch_s)
