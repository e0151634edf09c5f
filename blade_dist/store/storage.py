"""A folder of any storage that pyarrow knows by a URI: files go there and come back, and are checked on the way."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from blade_dist.errors import UserError

KNOWN = "file://, s3://, gs://, abfs://, hdfs://, and fsspec+NAME:// for what fsspec knows"
PIECE = 2**24
"""Bytes that are read at a time."""
LONGEST = 240
"""Characters that are shown of what a storage's library says."""

Told = Callable[[], object]
"""Is called whenever a piece of a file has gone through."""


def nobody() -> None:
    """Who is told, where nobody is."""


class Storage:
    """The folder; names of files in it are relative, with slashes."""

    def __init__(self, uri: str) -> None:
        """
        Raises:
            UserError: pyarrow knows no storage by the URI.
        """
        self.uri = uri
        try:
            self._system, base = pafs.FileSystem.from_uri(uri if "://" in uri else str(_path(uri)))
        except pa.ArrowInvalid as error:
            kind = uri.partition("://")[0]
            what = f"no storage is called {kind}://" if "Unrecognized" in str(error) else said(error)
            raise UserError(f"run.copy_to: {uri}: {what}; known are a path and {KNOWN}") from None
        except (OSError, ImportError, ValueError) as error:
            raise unusable(uri, error) from None
        self._base = base.rstrip("/")

    def check(self) -> None:
        """Writes a small file, reads it and deletes it.

        Raises:
            UserError: one of the three fails.
        """
        name, content = f"check-{uuid.uuid4().hex}", uuid.uuid4().bytes
        try:
            self.write(name, content)
            given = self.read(name)
            self.delete([name])
        except (OSError, pa.ArrowException) as error:
            raise unusable(self.uri, error) from None
        if given != content:
            raise UserError(f"run.copy_to: {self.uri} does not give back what is written there; choose another one")

    def read(self, name: str) -> bytes:
        """Content of a small file.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self._system.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """A small file; missing folders are made."""
        self._make_folder(name)
        with self._system.open_output_stream(self._path(name)) as stream:
            stream.write(content)

    def replace(self, name: str, content: bytes) -> None:
        """A small file in place of another: whoever reads it finds the old one or the new one."""
        self.write(f"{name}.new", content)
        self._system.move(self._path(f"{name}.new"), self._path(name))

    def send(self, file: Path, name: str, told: Told = nobody) -> str:
        """Copies a file there; SHA-256 of what was sent."""
        self._make_folder(name)
        total = hashlib.sha256()
        with file.open("rb") as source, self._system.open_output_stream(self._path(name)) as stream:
            while piece := source.read(PIECE):
                total.update(piece)
                stream.write(piece)
                told()
        return total.hexdigest()

    def fetch(self, name: str, file: Path) -> str:
        """Copies a file from there, and returns its SHA-256; missing folders are made.

        Raises:
            FileNotFoundError: it is not there.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        total = hashlib.sha256()
        with self._system.open_input_stream(self._path(name)) as stream, file.open("wb") as target:
            while piece := stream.read(PIECE):
                total.update(piece)
                target.write(piece)
        return total.hexdigest()

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by its name there."""
        found = self._system.get_file_info(pafs.FileSelector(self._path(folder), allow_not_found=True))
        return {info.base_name: info.size for info in found if info.is_file}

    def delete(self, names: Iterable[str]) -> None:
        """Removes files that are there."""
        for name in names:
            self._system.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _make_folder(self, name: str) -> None:
        self._system.create_dir(self._path(name).rpartition("/")[0], recursive=True)


def unusable(uri: str, error: BaseException) -> UserError:
    """What there is to say where the storage does not do what it should."""
    words, advice = said(error), "does it exist, may this machine write there, and is the network up?"
    if any(
        code in words for code in ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "HTTP status 403", "redential")
    ):
        advice = "give credentials that may write there in the environment, as AWS_ACCESS_KEY_ID"
    elif "NO_SUCH_BUCKET" in words or ("ucket" in words and "not found" in words):
        advice = "make the bucket first, or name one that is there"
    return UserError(f"run.copy_to: {uri} can't be used: {words}; {advice}")


def said(error: BaseException) -> str:
    """What a library says, on one line."""
    return " ".join(str(error).split())[:LONGEST].rstrip(" .")


def _path(given: str) -> Path:
    return Path(given).expanduser().absolute()
