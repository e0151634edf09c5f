"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blade_dist.errors import UserError


def read_json(path: Path) -> dict | None:
    """The file's content; None where there is no such file.

    Raises:
        UserError: it is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path}: damaged, not valid JSON ({error}): mend it, or delete its folder and make it again"
        ) from None


def check_folder(path: Path, setting: str) -> None:
    """Raises UserError where a file stands at the path, or in its way."""
    there = next((part for part in (path, *path.parents) if part.exists()), None)
    if there is not None and not there.is_dir():
        raise UserError(f"{setting}: {path} can't be a folder: {there} is a file; choose another one")


def write_text(path: Path, text: str) -> None:
    """Writes atomically; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: Path, content: object) -> None:
    """Writes atomically; missing folders are made."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block has ended well."""
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    replaced = path.with_name(path.name + ".old")
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.replace(replaced)
    temporary.replace(path)
    shutil.rmtree(replaced, ignore_errors=True)
