"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blade_dist.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of an OSError that mean: no room."""


def read_json(path: Path) -> dict | None:
    """The file's content; None where there is no such file.

    Raises:
        UserError: it is not JSON, or can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(
            f"{path}: damaged, not valid JSON ({error}): fix it, or delete its folder and make it again"
        ) from None


@contextmanager
def readable(path: Path, again: str) -> Iterator[None]:
    """Inside, a file or folder of ours is read; ``again``: how it is made again.

    Raises:
        FileNotFoundError: It is not there.
        UserError: It is damaged; libraries raise all kinds of errors at bytes that they did not write.
    """
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
        raise UserError(f"{path}: damaged ({what}): {again}") from error


def check_folder(path: Path, setting: str) -> None:
    """Raises UserError where a file stands at the path, or in its way."""
    there = next((part for part in (path, *path.parents) if part.exists()), None)
    if there is not None and not there.is_dir():
        raise UserError(f"{setting}: {path} can't be a folder: {there} is a file; choose another one")


def sync(path: Path) -> None:
    """Returns when the file's bytes, or the folder's list of names, are on disk.

    Raises:
        OSError: the disk is full, or fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some shared file systems can't for a folder
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Returns when all files and folders below ``folder``, and itself, are on disk; nobody may write there meanwhile.

    Raises:
        OSError: the disk is full, or fails.
    """
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path; the file that the block writes there takes the name ``path`` when the block has ended well.

    Whoever reads ``path`` sees the old file or the new one, also after a process or the machine has died: the new one
    is on disk before it is renamed, and a rename within a folder is atomic. Missing folders are made. One writer at a
    time: the temporary name is always the same, so that a writer that was killed leaves one file at most, which the
    next one replaces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 atomically; missing folders are made."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Writes atomically; missing folders are made."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the name ``path``, in place of what is there, when the block has ended well.

    A folder that isn't empty can't be replaced in one rename, so the old one steps aside first, as
    ``.<name>.replaced``: not as ``<name>.old``, which may be a copy that the user keeps. Where a process died between
    the two renames, ``path`` is missing; the next call puts the old folder back before it begins, so that the old
    content is lost only once new content, which is on disk, stands in its place.
    """
    temporary, replaced = path.with_name(path.name + ".tmp"), path.with_name(f".{path.name}.replaced")
    if replaced.exists() and not path.exists():
        replaced.replace(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_tree(temporary)
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():
            path.replace(replaced)
        temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
