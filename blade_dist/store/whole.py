"""Folders that prove that they are whole: a manifest with the size and the checksum of every file, written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from blade_dist.store.files import write_json

MANIFEST = "manifest.json"
"""File name -> its bytes and its SHA-256; a folder without it was never finished."""

Sums = dict[str, dict[str, int | str]]
"""A manifest, or a part of it: ``bytes`` and ``sha256`` by a file's path below the folder."""


def files_below(folder: Path) -> list[str]:
    """Paths of all files below ``folder`` but the manifest, sorted."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != MANIFEST)


def sums(folder: Path, names: Iterable[str]) -> Sums:
    """Size and checksum of these files, as they are now."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)} for name in names}


def write_manifest(folder: Path, known: Sums) -> None:
    """Makes the folder whole: all other files are on disk before, and the manifest is when this returns."""
    write_json(folder / MANIFEST, known)


def damage(folder: Path, known: Sums | None = None, from_disk: bool = False) -> str | None:
    """What is wrong with the folder, in a few words that begin with a file's name; None where it is whole.

    Files that the manifest does not name do no harm.

    Args:
        folder: that was made by this module.
        known: what shall be looked at; None: all that the folder's manifest names.
        from_disk: whether what is still in memory is read again.
    """
    if known is None:
        try:
            known = _manifest(folder)
        except FileNotFoundError:
            return f"{MANIFEST} is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{MANIFEST} is damaged ({type(error).__name__})"
    # sizes first: they cost nothing, and tell of most that can happen
    for name, of in known.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != of["bytes"]:
            return f"{name} has {size} bytes instead of {of['bytes']}"
    for name, of in known.items():
        try:
            if digest(folder / name, from_disk) != of["sha256"]:
                return f"{name} has another checksum than when it was written"
        except OSError as error:
            return f"{name} can't be read ({error.strerror})"
    return None


def bytes_of(folder: Path) -> int | None:
    """Size of the files that the manifest names; None where there is no readable one."""
    try:
        return sum(int(of["bytes"]) for of in _manifest(folder).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _manifest(folder: Path) -> Sums:
    content = json.loads((folder / MANIFEST).read_bytes())
    return {str(name): {"bytes": of["bytes"], "sha256": of["sha256"]} for name, of in content.items()}


def digest(path: Path, from_disk: bool = False) -> str:
    """SHA-256 of a file; ``from_disk``: whether what is still in memory is read again."""
    with path.open("rb") as file:
        if from_disk:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()
