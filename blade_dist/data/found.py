"""Which files stand at a path, and their bytes: folders, archives and compression as other programs write them."""

from __future__ import annotations

import json
import lzma
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa

from blade_dist.data.damaged import guarded, readable
from blade_dist.data.remarks import Remarks
from blade_dist.errors import UserError

Kind = Literal["parquet", "arrow", "orc", "text", "json"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq", ".parq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "orc": (".orc",),
    "text": (".csv", ".tsv", ".tab", ".psv", ".txt", ".dat", ".data", ".inter", ".item"),
    "json": (".jsonl", ".ndjson", ".json"),
}
COMPRESSED = (".gz", ".gzip", ".bz2", ".zst", ".zstd", ".lz4", ".xz")
ARCHIVES = (".tar", ".tgz", ".7z", ".rar", ".zip")
"""What is to be unpacked first; a single zip is read as a folder."""
TOLD = ("readme", "license", "licence", "notice", "changelog")
"""Names of what tells of tables."""
NO_TABLES = (
    ".xlsx",
    ".xls",
    ".ods",
    ".avro",
    ".pkl",
    ".pickle",
    ".npz",
    ".npy",
    ".mat",
    ".h5",
    ".hdf5",
    ".db",
    ".sqlite",
)
"""What nothing here reads."""

_CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_XZ, _ZIP = b"\xfd7zXZ", b"PK\x03\x04"
_MARKS: dict[bytes, Kind] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"FEA1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"ORC": "orc",
}
"""How files of typed columns begin; the fourth is a stream of Arrow."""
_OBJECTS = (b'{"', b"{'", b"{u'", b"[{")
"""How a file of JSON begins, or of what Python writes of a dict."""
_NOTHING = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class DataFile:
    """A file, or one inside a zip archive."""

    path: Path
    member: str | None = None
    """Its name in the archive."""
    keys: dict[str, str | None] = field(default_factory=dict)
    """Partition columns, by the folders that it stands in: ``dt=2024-01-31/part-0.parquet``."""

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def suffixes(self) -> list[str]:
        """In lower case."""
        return [suffix.lower() for suffix in PurePosixPath(self.member or self.path.name).suffixes]

    @property
    def kind(self) -> Kind | None:
        """By its suffix, perhaps before one of compression; None where that says nothing."""
        left = [suffix for suffix in self.suffixes if suffix not in COMPRESSED]
        return next((kind for kind, known in SUFFIXES.items() if left and left[-1] in known), None)

    def raw(self) -> pa.NativeFile:
        """Its bytes as they are stored."""
        if self.member is None:
            return pa.OSFile(str(self.path))
        # Formats that are read from their end need a file that can be moved in.
        try:
            return pa.BufferReader(zipfile.ZipFile(self.path).read(self.member))
        except RuntimeError as error:  # a password, or a compression that Python does not know
            raise UserError(f"{self}: {error}; unpack it, and give the folder that comes out") from None

    def seekable(self) -> pa.NativeFile:
        """Its bytes, decompressed, as a file that can be moved in."""
        with self.raw() as stored:
            compressed = stored.read(6).startswith((*_CODECS, _XZ))
        return pa.BufferReader(self.open().read()) if compressed else self.raw()

    def head(self, size: int = 1 << 16) -> bytes:
        """Its first bytes, decompressed."""
        with self.open() as stream:
            return stream.read(size)

    def open(self) -> pa.NativeFile:
        """Its bytes, decompressed; how they are compressed is seen by their beginning, not by the name."""
        stored = self.raw()
        beginning = stored.read(6)
        stored.seek(0)
        if beginning.startswith(_XZ):
            return pa.PythonFile(lzma.open(stored), mode="r")
        for mark, codec in _CODECS.items():
            if beginning.startswith(mark):
                return pa.CompressedInputStream(stored, codec)
        return stored

    def is_empty(self) -> bool:
        return not self.head(1)


def find(path: Path, setting: str, remarks: Remarks, prefer: tuple[str, ...] = ()) -> list[DataFile]:
    """The files at ``path`` that hold a table, all of one kind, in the order of their names.

    A folder is looked through with the folders in it. What programs leave beside their parts is passed over: names
    that begin with ``.`` or ``_``, empty files, other kinds of files, and what the log of a Delta table has removed. A
    zip archive is read as a folder, and so are those of a folder that has nothing else.

    Args:
        path: a file, a folder or an archive, what is inside one, or several by ``*`` and ``?``.
        setting: that names the path.
        remarks: says which tables of another kind are passed over.
        prefer: suffixes of which only those are read, where there are some.

    Raises:
        UserError: nothing there, or nothing that is a table.
    """
    matching = sorted(glob(str(path), recursive=True), key=_counted)  # noqa: PTH207 - of any root
    places = [path] if path.exists() else [place for place in map(Path, matching) if place.exists()]
    members = [] if places else _members(path)
    for place in places:
        if not (place.is_file() or place.is_dir()):
            raise UserError(
                f"{setting}: {place} is a pipe, a socket or a device; write what comes from it to a file first"
            )
    if not places and not members:
        link = f" is a link to {path.readlink()}, which" if path.is_symlink() else ""
        raise UserError(f"{setting}: {path}{link} does not exist")
    single = len(places) == 1 and places[0].is_file() and not is_zip(places[0])
    if single and _readable(DataFile(places[0])):
        _refuse_stand_in(DataFile(places[0]))
        return [DataFile(places[0])]
    gone = removed_of_delta(path)
    files = members or [file for place in places for file in _files(place) if file.path not in gone]
    if not any(_may_be_table(file) for file in files):
        zips = [file.path for file in files if file.member is None and file.path.is_file() and is_zip(file.path)]
        files = [file for archive in zips for file in inside(archive)] or files
    for wanted in (*[_ends_with(prefer)] * bool(prefer), *map(_is_kind, SUFFIXES), _is_part):
        named = [file for file in files if wanted(file)]
        if chosen := [file for file in named if guarded(file.is_empty, file)]:
            _refuse_stand_in(chosen[0])
            _say_others(files, chosen, prefer, path, remarks)
            return _without_copies(chosen, remarks)
        if named:
            raise UserError(f"{setting}: all files at {path} are empty; a first line must name the columns")
    there = ", ".join(sorted({file.suffixes[-1] for file in files if file.suffixes})) or "nothing"
    if packed := [file for file in files if set(file.suffixes).intersection(ARCHIVES)]:
        raise UserError(f"{setting}: {packed[0]} is an archive; unpack it, and give the folder that comes out")
    raise UserError(
        f"{setting}: {path} is neither .csv nor .parquet, nor a folder with such files (it has {there}); tables are "
        "CSV, TSV, JSON lines, Parquet, Arrow or ORC: export it as one of these"
    )


def _files(place: Path) -> Iterator[DataFile]:
    """Those of a folder or an archive, or the file itself."""
    if place.is_dir() or is_zip(place):
        yield from inside(place)
    elif not _hidden(PurePosixPath(place.name)):
        yield DataFile(place)


def _members(path: Path) -> list[DataFile]:
    """What is inside a zip archive at a path that goes on from it: ``data.zip/ratings.csv``."""
    archive = next((part for part in path.parents if part.is_file() and is_zip(part)), None)
    if archive is None:
        return []
    name = path.relative_to(archive).as_posix()
    return [file for file in inside(archive) if file.member == name or f"{file.member}".startswith(f"{name}/")]


def _refuse_stand_in(file: DataFile) -> None:
    """UserError where there is something else in the place of a file that was to be fetched."""
    with readable(file):
        head = file.head(256).lstrip()
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{file}: it is a pointer of Git LFS, and not the file; fetch that with `git lfs pull`")
    if head[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise UserError(f"{file}: it is a web page and no table; was the download refused? fetch it again")


def removed_of_delta(path: Path) -> set[Path]:
    """Files of a Delta table that still lie there and are no part of it any more, by the JSON files of its log."""
    gone: set[Path] = set()
    for commit in sorted((path / "_delta_log").glob("*.json")):
        for line in commit.read_text(errors="replace").splitlines():
            with suppress(ValueError, AttributeError):
                action = json.loads(line)
                if added := action.get("add"):
                    gone.discard(path / unquote(added["path"]))
                elif removed := action.get("remove"):
                    gone.add(path / unquote(removed["path"]))
    return gone


def _is_part(file: DataFile) -> bool:
    """Whether it has no suffix but one of compression, as parts of Hive and Redshift; a manifest lists such parts."""
    return (
        not set(file.suffixes).difference(COMPRESSED)
        and PurePosixPath(file.member or file.path.name).stem != "manifest"
    )


def _may_be_table(file: DataFile) -> bool:
    return file.kind is not None or (file.member is None and not is_zip(file.path) and _is_part(file))


def _say_others(
    files: list[DataFile], chosen: list[DataFile], prefer: tuple[str, ...], path: Path, remarks: Remarks
) -> None:
    """Says which other tables lie beside those that are read; one beside a preferred file is another table."""
    names = {file.kind for file in chosen}
    others = [file for file in files if file.kind and file.kind not in names]
    if others and not _ends_with(prefer)(chosen[0]):
        beside = f"{path}: {len(others)} table{'s' * (len(others) > 1)} of another kind passed over"
        remarks.hint(
            f"{beside}, as {PurePosixPath(str(others[0])).name}; only the {chosen[0].suffixes[-1]} files are read"
        )


def _without_copies(files: list[DataFile], remarks: Remarks) -> list[DataFile]:
    """Without those that are compressed and stand beside a file of the same name that is not."""
    names = {str(file) for file in files}
    copies = [file for file in files if _compressed(file) and str(file).removesuffix(file.suffixes[-1]) in names]
    if copies:
        beside = PurePosixPath(str(copies[0])).name
        remarks.hint(f"{len(copies)} compressed files stand beside themselves, and are passed over", beside)
    return [file for file in files if file not in copies]


def _compressed(file: DataFile) -> bool:
    return bool(file.suffixes) and file.suffixes[-1] in COMPRESSED


def _readable(file: DataFile) -> bool:
    """Whether a single file, whatever its name, holds a table."""
    if file.suffixes and file.suffixes[-1] in NO_TABLES:
        return False
    with readable(file):
        return kind_of(file) is not None


def kind_of(file: DataFile) -> Kind | None:
    """By its content, where that is plain, else by its name; None where it is no table."""
    head = file.head(4096)
    for mark, kind in _MARKS.items():
        if head.startswith(mark) and b"\0" in head:  # a text may begin with these letters
            return kind
    if file.kind is None and b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return None
    if file.kind in (None, "text", "json") and head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(_OBJECTS):
        return "json"
    return file.kind or "text"


def is_zip(path: Path) -> bool:
    """Whether a file is an archive (and no table of a program that writes archives)."""
    with path.open("rb") as stream:
        return stream.read(4) == _ZIP and not {suffix.lower() for suffix in path.suffixes}.intersection(NO_TABLES)


def inside(path: Path, depth: int | None = None) -> Iterator[DataFile]:
    """All files of a folder or an archive that are not hidden; ``depth``: folders below it, None: all."""
    if path.is_file():
        with readable(path), zipfile.ZipFile(path) as archive:
            names = sorted((info.filename for info in archive.infolist() if not info.is_dir()), key=_counted)
        for name in names:
            if not _hidden(PurePosixPath(name)):
                yield DataFile(path, name, _keys(PurePosixPath(name)))
        return
    for file in sorted(path.rglob("*") if depth is None else _near(path, depth), key=_counted):
        below = PurePosixPath(file.relative_to(path).as_posix())
        if file.is_file() and not _hidden(below):
            yield DataFile(file, None, _keys(below))


def _counted(path: object) -> list[list[str | int]]:
    """By which names are ordered as people count: ``part-2`` before ``part-10``."""
    names = (re.split(r"([0-9]+)", name) for name in PurePosixPath(str(path)).parts)
    return [[int(part) if place % 2 else part for place, part in enumerate(parts)] for parts in names]


def _near(path: Path, depth: int) -> Iterator[Path]:
    for level in range(depth):
        yield from path.glob("*/" * level + "*")


def _hidden(below: PurePosixPath) -> bool:
    """Whether it, or a folder that it stands in, is none of the parts: ``_SUCCESS``, ``.part.crc``, ``README.txt``."""
    told = below.stem.lower() in TOLD and below.suffix.lower() in ("", ".txt", ".md")
    return told or any(part.startswith((".", "_")) and "=" not in part for part in below.parts)


def _keys(below: PurePosixPath) -> dict[str, str | None]:
    pairs = [part.partition("=") for part in below.parts[:-1] if "=" in part]
    return {name: None if value == _NOTHING else unquote(value) for name, _, value in pairs}


def _ends_with(suffixes: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda file: bool(set(suffixes).intersection(file.suffixes))


def _is_kind(kind: Kind) -> Callable[[Any], bool]:
    return lambda file: file.kind == kind
