"""Where a run keeps what it made, and how a stage knows that its work is already done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blade_dist.errors import UserError


@dataclass(frozen=True)
class RunPaths:
    """Folders and files below ``run.dir``."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def catalog(self) -> Path:
        return self.data / "catalog"

    @property
    def codec(self) -> Path:
        return self.data / "codec"

    @property
    def trie(self) -> Path:
        """The trie of legal lists."""
        return self.data / "trie"

    @property
    def sft(self) -> Path:
        """Stage folder; the checkpoint is in ``sft/policy``."""
        return self.root / "sft"

    @property
    def reference(self) -> Path:
        """The SFT checkpoint: reference policy and start of the alignment."""
        return self.sft / "policy"

    @property
    def prior(self) -> Path:
        return self.root / "prior.arrow"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    def target(self, target: str) -> Path:
        """Stage folder of the alignment to ``target``; the aligned checkpoint is in ``<target>/policy``."""
        return self.root / target

    def policy(self, target: str) -> Path:
        return self.target(target) / "policy"


def is_done(folder: Path, stamp: str, what: str) -> bool:
    """Whether ``folder`` holds this stage's finished work.

    Raises:
        UserError: it holds work that was made with other settings or inputs.
    """
    found = read_json(folder / "stage.json")
    if found is None:
        return False
    if found["stamp"] != stamp:
        raise UserError(
            f"{folder}: {what} there was made with other settings or inputs: "
            "delete the folder, or choose another run.dir"
        )
    return bool(found["done"])


def mark(folder: Path, stamp: str, done: bool) -> None:
    """Notes which settings the folder's work belongs to, and whether it is whole."""
    write_json(folder / "stage.json", {"stamp": stamp, "done": done})


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


def write_json(path: Path, content: object) -> None:
    """Writes atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


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
