"""The copy of a run's folder in a storage: files by their checksums, and a manifest that makes them one whole state.

A new manifest takes the old one's place when every file that it names is there, and what no manifest names is deleted
after that, so that a machine may vanish at any moment. Files that two states share are sent once.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from blade_dist.errors import UserError
from blade_dist.store.files import read_json, write_json
from blade_dist.store.lock import held
from blade_dist.store.run import LOG
from blade_dist.store.stage import STAGE
from blade_dist.store.storage import Storage, Told, nobody
from blade_dist.store.whole import MANIFEST, Sums, digest

VERSION = 1
OBJECTS = "objects"
"""Folder of the storage: a file by the name of its SHA-256."""
STAGED, MARKER = ".copying", ".copied.json"
"""In the run's folder: what is being copied, and which copies are of this very folder."""
SEALS = {MANIFEST, STAGE, "card.json", "prior.arrow", "recommender.json", "summary.json"}
"""Names of files that are written last: one of a checkpoint, of a stage, of data, of an export, of an evaluation."""
TRIES, PAUSE_S = 20, 0.5
"""Of taking hold of a folder in which nothing becomes whole, or goes, meanwhile."""

Seals = dict[str, tuple[int, int]]


class BusyError(OSError):
    """Another process is copying the folder."""


class ForeignError(OSError):
    """The storage holds a copy that was made from another folder since."""


@dataclass(frozen=True)
class Copy:
    """What a storage holds."""

    id: str
    """Of this state alone."""
    files: Sums
    """By the path below the run's folder."""

    @property
    def bytes(self) -> int:
        return sum(int(of["bytes"]) for of in self.files.values())


def read_copy(storage: Storage) -> Copy | None:
    """The copy there; None where there is none.

    Raises:
        UserError: it is of a later version, or no copy of a run.
    """
    for last in (False, False, True):
        try:
            return _parsed(storage.read(MANIFEST))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            if not last:  # its size is asked for first, so that one that is replaced just then is cut off
                time.sleep(PAUSE_S)
    raise UserError(
        f"run.copy_to: {storage.uri}/{MANIFEST} is no copy of a run that this version of blade_dist reads; choose "
        "another folder"
    )


def _parsed(manifest: bytes) -> Copy:
    """
    Raises:
        ValueError: it is of another version, or names what is not below the run's folder.
    """
    content = json.loads(manifest)
    paths = map(PurePosixPath, content["files"])
    if content["version"] != VERSION or any(path.is_absolute() or ".." in path.parts for path in paths):
        raise ValueError(MANIFEST)
    return Copy(content["id"], content["files"])


def files_of(root: Path) -> Iterator[str]:
    """Paths of what is copied: not what is hidden, unfinished, damaged, a link, or the log of this machine."""
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if _counts(name) and not name.startswith("damaged_"))
        for name in sorted(names):
            path = Path(folder, name)
            if _counts(name) and not path.is_symlink() and path != root / LOG:
                yield path.relative_to(root).as_posix()


def seals(root: Path) -> Seals:
    """What tells that something has become whole, or is gone: time and number of each file of :data:`SEALS`.

    Raises:
        FileNotFoundError: one went meanwhile.
    """
    found = ((name, (root / name).stat()) for name in files_of(root) if name.rpartition("/")[2] in SEALS)
    return {name: (of.st_mtime_ns, of.st_ino) for name, of in found}


def ours(root: Path) -> list[str]:
    """Numbers of copies that are of this very folder: the last one, and one that may have been finished."""
    return list((read_json(root / MARKER) or {}).get("copies", []))


def mark_ours(root: Path, ids: list[str]) -> None:
    """Notes them."""
    write_json(root / MARKER, {"copies": ids})


class Copier:
    """Copies a run's folder again and again; what it has seen of a file that stays as it is it does not read again."""

    def __init__(self, root: Path, storage: Storage, told: Told = nobody) -> None:
        """``told``: is called whenever something has gone through."""
        self._root = root
        self._storage = storage
        self._told = told
        self._seen: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}

    def copy(self) -> Copy:
        """Makes the storage hold the folder as it is now.

        Raises:
            BusyError: another process is at it.
            ForeignError: the storage holds another folder's copy.
            OSError: the storage can't be written to.
        """
        with _alone(self._root), _staged(self._root) as staged:
            sums = {name: self._sum(name, path) for name, path in staged.items()}
            there, before = read_copy(self._storage), ours(self._root)
            if there is not None and there.id not in before:
                raise ForeignError(f"{self._storage.uri} was written from another run.dir meanwhile")
            if there is not None and there.files == sums:
                return there
            sums = self._send(staged, sums)
            new = Copy(uuid.uuid4().hex, sums)
            # both numbers, first: whether the manifest got there is not known where this process dies
            mark_ours(self._root, [*([there.id] if there else []), new.id])
            manifest = {"version": VERSION, "id": new.id, "files": new.files}
            self._storage.replace(MANIFEST, json.dumps(manifest).encode())
            named = {of["sha256"] for of in sums.values()}
            self._storage.delete(f"{OBJECTS}/{name}" for name in self._storage.sizes(OBJECTS) if name not in named)
            return new

    def _send(self, staged: dict[str, Path], sums: Sums) -> Sums:
        """Sends what the storage lacks; without what changed meanwhile, as only files of no importance do."""
        there, moving = self._storage.sizes(OBJECTS), set()
        for name, of in sums.items():
            content = str(of["sha256"])
            if there.get(content) == of["bytes"]:
                continue
            there[content] = int(of["bytes"])
            if self._storage.send(staged[name], f"{OBJECTS}/{content}", self._told) != content:
                self._storage.delete([f"{OBJECTS}/{content}"])
                moving.add(content)
        return {name: of for name, of in sums.items() if of["sha256"] not in moving}

    def _sum(self, name: str, path: Path) -> dict[str, Any]:
        stat = path.stat()
        key = (stat.st_mtime_ns, stat.st_size)
        if name not in self._seen or self._seen[name][0] != key:
            self._seen[name] = key, {"bytes": stat.st_size, "sha256": digest(path)}
            self._told()
        return self._seen[name][1]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Holds the right to copy: two commands may work in one run's folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(root / STAGED, "a command that copies it", "run.dir"))
        except UserError as error:
            raise BusyError(str(error)) from None
        yield


@contextmanager
def _staged(root: Path) -> Iterator[dict[str, Path]]:
    """The files of one moment, by their names: links, which stay when a checkpoint is deleted or a file is replaced.

    Raises:
        OSError: the folder never stood still.
    """
    folder = root / STAGED
    try:
        for _ in range(TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                before = seals(root)
                staged = {name: _link(root / name, folder / str(number)) for number, name in enumerate(files_of(root))}
                if seals(root) == before:
                    break
            except FileNotFoundError:
                pass
            time.sleep(PAUSE_S)
        else:
            raise OSError(f"{root} changed all the time")
        yield staged
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(path: Path, place: Path) -> Path:
    try:
        place.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copy2(path, place)
    return place


def _counts(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".tmp")
