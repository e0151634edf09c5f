"""The folder of a training's checkpoints: their names, which of them are whole, and what a full disk left there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blade_dist.errors import FullDiskError, origin
from blade_dist.store.files import FULL, read_json, sync
from blade_dist.store.whole import bytes_of, damage

LEARNERS = "learners"
"""Folder of a stage that holds the checkpoints of its learners."""
NUMBERS = "numbers.json"
"""File of a checkpoint: the steps done, and the score where one was measured."""
PROGRESS = "progress.json"
"""File of a checkpoint: how far the training is, among it ``layout``."""
OPTIMIZER = "optimizer"
"""Folder of a checkpoint: what the optimizers of the ranks hold."""
PROBE_BYTES = 2**20
_NAME = re.compile(r"checkpoint_(\d{8,})")


@dataclass(frozen=True)
class Layout:
    """Over what a training is spread."""

    ranks: int = 1
    zero_stage: int = 0

    def __str__(self) -> str:
        return f"{self.ranks} learner(s) of ZeRO stage {self.zero_stage}"


@dataclass(frozen=True)
class Checkpoint:
    """A whole one."""

    folder: Path
    numbers: dict[str, float]
    """``step``, and the score where one was measured."""
    layout: Layout | None
    """Of the training that saved it; None in those of versions that another layout could not read."""

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.numbers["step"])


def checkpoint_folder(parent: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps stands when it is whole."""
    return parent / f"checkpoint_{step:08d}"


def unfinished_folder(parent: Path, step: int) -> Path:
    """Where it is written."""
    return parent / f".checkpoint_{step:08d}.part"


def remove_unfinished(parent: Path) -> None:
    """Removes what writers that died left behind."""
    for folder in parent.glob(".checkpoint_*.part"):
        shutil.rmtree(folder, ignore_errors=True)


def discard(unfinished: Path) -> None:
    """Removes a checkpoint that could not be written, and gives back its room at once.

    A library whose write failed may hold its file open as long as its error is on its way.
    """
    for path in unfinished.rglob("*"):
        with suppress(OSError):
            os.truncate(path, 0)
    shutil.rmtree(unfinished, ignore_errors=True)


def named_step(name: str) -> int:
    """Steps that a checkpoint of this name has done; 0 where it is no checkpoint's."""
    match = _NAME.fullmatch(name.rpartition("/")[2])
    return int(match[1]) if match else 0


def saved_step(parent: Path) -> int:
    """Steps that the newest checkpoint has done, by its name; 0 without one."""
    return max((step for step, _ in _standing(parent)), default=0)


def take_whole(parent: Path) -> tuple[list[Checkpoint], list[str]]:
    """The whole checkpoints, by step; all others are moved aside, or left alone where their names are not ours.

    Every file is read and compared with the checkpoint's manifest.

    Returns:
        The checkpoints, and a line for each folder that is none.
    """
    whole, lines = [], []
    for _, folder in _standing(parent):
        if (what := damage(folder)) is None:
            layout = _content(folder, PROGRESS).get("layout")
            whole.append(Checkpoint(folder, _content(folder, NUMBERS), None if layout is None else Layout(**layout)))
        else:
            aside = parent / f"damaged_{folder.name}"
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
            lines.append(f"{folder} is skipped: {what}; it is now {aside.name}, and may be deleted")
    foreign = (folder for folder in parent.glob("checkpoint_*") if folder.is_dir() and not _NAME.fullmatch(folder.name))
    lines += [f"{folder} is ignored: no checkpoint of this version has such a name" for folder in sorted(foreign)]
    return whole, lines


def finish(unfinished: Path, whole: Path) -> None:
    """Gives the checkpoint its name; it is on disk under it when this returns."""
    shutil.rmtree(whole, ignore_errors=True)  # of a group of learners that died before it was noted
    unfinished.replace(whole)
    sync(whole.parent)


def check_room(parent: Path, step: int) -> None:
    """Whether a checkpoint as large as the newest one fits.

    Raises:
        FullDiskError: it does not.
    """
    sizes = [bytes_of(folder) for _, folder in _standing(parent)]
    usage = shutil.disk_usage(parent)
    if sizes and sizes[-1] is not None and usage.total and usage.free < sizes[-1]:
        raise no_room(parent, step)


def no_room(parent: Path, step: int) -> FullDiskError:
    """What there is to say when the checkpoint after ``step`` steps does not fit."""
    standing = _standing(parent)
    size = bytes_of(standing[-1][1]) if standing else None
    needed = "" if size is None else f" about {_megabytes(size)} are needed, and"
    kept = f"it goes on from step {standing[-1][0]}, whose checkpoint is whole" if standing else "it begins anew"
    return FullDiskError(
        f"the disk is full: the checkpoint of step {step} does not fit into {parent}:{needed} "
        f"{_megabytes(shutil.disk_usage(parent).free)} are free; make room, then run the same command again: {kept}"
    )


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether ``error``, raised by something that wrote into ``folder``, means that the disk is full.

    Libraries that write tensors and tokenizers raise errors of their own, without its number: some have its words, and
    for the others a write is tried.
    """
    cause = origin(error)
    if getattr(cause, "errno", None) in FULL or any(os.strerror(number) in str(cause) for number in FULL):
        return True
    probe = folder / "probe"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as failed:
        return failed.errno in FULL
    probe.unlink()
    return False


def _standing(parent: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all that are named as checkpoints, by step."""
    return sorted(_named(parent))


def _named(parent: Path) -> Iterator[tuple[int, Path]]:
    for folder in parent.glob("checkpoint_*"):
        if _NAME.fullmatch(folder.name) and folder.is_dir():
            yield named_step(folder.name), folder


def _content(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) or {}


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
