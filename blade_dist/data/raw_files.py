"""What the raw files were when data were made of them: enough to see that they are others now. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from blade_dist.settings import DataSettings

LOOKED_AT = 1 << 16
"""Bytes at the beginning, and at the end, of each file."""


def raw_files(data: DataSettings) -> dict[str, dict[str, Any]]:
    """By setting: how many bytes stand at its path, and a digest of their files' names, sizes, beginnings and ends.

    Nothing of a path where no file is.
    """
    given = {"data.path": data.path, "data.items": data.items, "data.splits": data.splits}
    found = {name: _described(path) for name, path in given.items() if path is not None and data.source != "synthetic"}
    return {name: described for name, described in found.items() if described["bytes"]}


def changed_files(then: Mapping[str, Mapping[str, Any]], data: DataSettings) -> list[str]:
    """A line for each path whose files are there and are others than ``then``."""
    lines = []
    for name, now in raw_files(data).items():
        before = then.get(name, now)
        if before["digest"] != now["digest"]:
            sizes = f" ({before['bytes']:,} bytes then, {now['bytes']:,} now)" * (before["bytes"] != now["bytes"])
            lines.append(f"{getattr(data, name.removeprefix('data.'))} ({name}) has changed since{sizes}")
    return lines


def _described(path: Path) -> dict[str, Any]:
    digest, size = hashlib.blake2b(digest_size=16), 0
    for file, name in _files(path):
        bytes_here = file.stat().st_size
        size += bytes_here
        digest.update(f"{name}\0{bytes_here}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(LOOKED_AT))
            stream.seek(max(0, bytes_here - LOOKED_AT))
            digest.update(stream.read(LOOKED_AT))
    return {"bytes": size, "digest": digest.hexdigest()}


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """Files at a path, in it, in the archive that it leads into, or by ``*`` and ``?``; and their names below it."""
    places = [part for part in (path, *path.parents) if part.is_file()][:1] or [path]
    if not places[0].exists():
        places = sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207 - of any root
    for place in places:
        if place.is_file():
            yield place, place.name
        for file in sorted(place.rglob("*")) if place.is_dir() else []:
            below = file.relative_to(place)
            if file.is_file() and not any(part.startswith((".", "_")) for part in below.parts):
                yield file, below.as_posix()
