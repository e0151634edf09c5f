"""What a run's folder lacks and its copy has: brought from there, each part whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from blade_dist.errors import UserError
from blade_dist.store.changes import changes, made_otherwise
from blade_dist.store.checkpoints import LEARNERS, named_step, saved_step
from blade_dist.store.copy import OBJECTS, Copy, mark_ours, ours, read_copy
from blade_dist.store.files import read_json, whole_file, whole_folder
from blade_dist.store.lock import held
from blade_dist.store.stage import STAGE
from blade_dist.store.storage import Storage

DATA, CARD = "data", "data/card.json"
INSTEAD = "or choose another run.copy_to; a run.dir that is empty is filled from this one"


class _DamagedError(Exception):
    """Names a file whose content is not what the copy says."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is; ordered."""

    step: int
    done: bool

    def __lt__(self, other: Progress) -> bool:
        return (self.step, self.done) < (other.step, other.done)

    def __str__(self) -> str:
        return "done" if self.done else f"step {self.step}"


def fetch(root: Path, storage: Storage) -> list[str]:
    """Brings what the copy has, and ``root`` lacks or has only an older state of.

    Nothing comes from a copy that was made from this very folder: what is not there any more was moved away.

    Returns:
        What there is to say, a line each.

    Raises:
        UserError: the copy is of another run, or of other settings; another process works in a folder.
        OSError: the storage can't be read.
    """
    copy = read_copy(storage)
    if copy is None or (copy.id in ours(root) and (root / DATA).is_dir()):
        return []
    parts, stages = _parts(copy), {}
    for part, names in parts.items():
        if f"{part}/{STAGE}" in names:
            stages[part] = json.loads(storage.read(_object(copy, f"{part}/{STAGE}")))
    _check_same(root, storage, copy, stages)
    said, brought = [], []
    for part, names in parts.items():
        progress = _progress_there(part, names, stages[part]) if part in stages else None
        if _is_wanted(root / part, progress):
            came, lines = _bring(root, storage, copy, part, names)
            said += lines
            brought += [f"{part} ({progress})" if progress else part] if came else []
    mark_ours(root, [copy.id])
    if brought:
        said.insert(0, f"{', '.join(brought)} came from {storage.uri}, as {root} had less")
    return said


def _parts(copy: Copy) -> dict[str, set[str]]:
    """Files by what comes whole: a stage's folder, else what is directly below the run's folder; outer ones first."""
    stages = {name.removesuffix(f"/{STAGE}") for name in copy.files if name.endswith(f"/{STAGE}")}
    parts: dict[str, set[str]] = {}
    for name in copy.files:
        above = (folder.as_posix() for folder in PurePosixPath(name).parents)
        part = next((folder for folder in above if folder in stages), name.partition("/")[0])
        parts.setdefault(part, set()).add(name)
    return dict(sorted(parts.items()))


def _check_same(root: Path, storage: Storage, copy: Copy, stages: dict[str, Any]) -> None:
    """Raises UserError where the folder and the copy are not of one run: the one would overwrite the other."""
    card = root / CARD
    if card.is_file() and CARD in copy.files:
        there, here = json.loads(storage.read(_object(copy, CARD))), read_json(card) or {}
        if there.get("settings_fingerprint") != here.get("settings_fingerprint"):
            raise UserError(
                f"run.copy_to: {storage.uri} is the copy of a run of other data than {root} has: choose the run.dir "
                f"that it is of, {INSTEAD}"
            )
    for part, state in stages.items():
        here = read_json(root / part / STAGE) or state
        if found := changes(state.get("settings", {}), here.get("settings", {})):
            raise made_otherwise(f"run.copy_to: {part} in {storage.uri}", found.values(), INSTEAD)


def _is_wanted(here: Path, there: Progress | None) -> bool:
    if not here.exists():
        return True
    if there is None:
        return False
    return Progress(saved_step(here / LEARNERS), bool((read_json(here / STAGE) or {}).get("done"))) < there


def _progress_there(part: str, names: set[str], state: dict[str, Any]) -> Progress:
    return Progress(max(map(named_step, _checkpoints(part, names)), default=0), bool(state.get("done")))


def _checkpoints(part: str, names: set[str]) -> set[str]:
    """Paths of the checkpoints' folders, below the run's."""
    folder = f"{part}/{LEARNERS}/"
    below = {name.removeprefix(folder).partition("/")[0] for name in names if name.startswith(folder)}
    return {folder + name for name in below if named_step(name)}


def _bring(root: Path, storage: Storage, copy: Copy, part: str, names: set[str]) -> tuple[bool, list[str]]:
    """Whether the part came, and what there is to say."""
    whole = whole_file if names == {part} else whole_folder
    try:
        with (
            held(root / part, f"a command that fetches it from {storage.uri}", "run.dir"),
            whole(root / part) as target,
        ):
            return True, _fill(target, storage, copy, part, names)
    except _DamagedError as error:
        return False, [f"{part} does not come from {storage.uri}, as {error} is damaged there; it is made anew"]


def _fill(target: Path, storage: Storage, copy: Copy, part: str, names: set[str]) -> list[str]:
    """Brings the files; a line for each checkpoint that is damaged, which comes too: one beside it may be whole.

    Raises:
        _DamagedError: a file of something else is.
    """
    checkpoints, lines = _checkpoints(part, names), set()
    for name in sorted(names):
        if _came(storage, copy, name, target / name.removeprefix(part).lstrip("/")):
            continue
        of = next((folder for folder in checkpoints if name.startswith(f"{folder}/")), None)
        if of is None:
            raise _DamagedError(name)
        lines.add(f"{of} is damaged in {storage.uri}")
    return sorted(lines)


def _came(storage: Storage, copy: Copy, name: str, file: Path) -> bool:
    try:
        return storage.fetch(_object(copy, name), file) == copy.files[name]["sha256"]
    except FileNotFoundError:
        return False


def _object(copy: Copy, name: str) -> str:
    return f"{OBJECTS}/{copy.files[name]['sha256']}"
