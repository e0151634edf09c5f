"""MovieLens in all its forms: ``ratings.csv`` (latest, 20M, 25M, 32M), ``ratings.dat`` (1M, 10M), ``u.data`` (100K).

A folder, its zip archive, or a folder or archive with that folder in it; a folder with the zip alone.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data.damaged import readable
from blade_dist.data.dialect import Dialect, sniff
from blade_dist.data.found import COMPRESSED, DataFile, inside, is_zip
from blade_dist.data.ids import id_text
from blade_dist.data.rawlog import LogColumns, RawLog, require_columns
from blade_dist.data.remarks import Remarks
from blade_dist.data.tables import Keyed, bad_row, rules_of, stream, whole
from blade_dist.data.text_table import TextTable
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings

_COLUMNS = LogColumns("userId", "movieId", "timestamp", "rating")
_RATINGS, _MOVIES = ("userId", "movieId", "rating", "timestamp"), ("movieId", "title", "genres")
_NO_GROUPS = ("(no genres listed)", "unknown")
_GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
_GENRES_100K = tuple(_GENRES.split("|"))
_FORMS = (
    ("ratings.csv", "movies.csv"),
    ("ratings.dat", "movies.dat"),
    ("u.data", "u.item"),
    ("rating.csv", "movie.csv"),
)
"""Of ratings and movies; the last ones are how Kaggle calls those of 20M."""


def read_movielens(settings: DataSettings, seed: int, folder: Path) -> RawLog:  # noqa: ARG001
    """The ratings, and the movies with their genres as groups.

    Raises:
        UserError: a missing file or column, an unreadable movie.
    """
    assert settings.path is not None  # checked by Config
    remarks, rules = Remarks(), rules_of(settings)
    ratings, movies = _files(settings.path)
    skipped = remarks if rules.drop else None
    log = [(Keyed(TextTable(ratings, _ratings_dialect(ratings), skipped)), _COLUMNS)]
    return RawLog(
        rows=lambda: stream(log, rules, remarks),
        items=_read_movies(movies, remarks),
        bad_row=lambda: bad_row(log, rules),
        remarks=remarks,
    )


def _files(path: Path) -> tuple[DataFile, DataFile]:
    """The two files, of the first form that is there whole."""
    if not path.exists():
        raise UserError(f"data.path: {path} does not exist")
    at = path.parent if path.is_file() and not is_zip(path) else path
    found = _by_name(at)
    zips = sorted(at.glob("*.zip")) if at.is_dir() else []
    for there in chain([found], map(_by_name, zips)):
        for names in _FORMS:
            if all(name in there for name in names):
                return there[names[0]], there[names[1]]
    half = next((names for names in _FORMS if any(name in found for name in names)), _FORMS[0])
    missing = next(name for name in half if name not in found)
    raise UserError(
        f"data.path: {at / missing} does not exist; a MovieLens folder (or its zip) has "
        + ", or ".join(" and ".join(names) for names in _FORMS[:3])
    )


def _by_name(place: Path) -> dict[str, DataFile]:
    """The files of a folder or an archive by their names in lower case, without a suffix of compression."""
    found: dict[str, DataFile] = {}
    with readable(place):
        for file in inside(place, depth=3):
            name = PurePosixPath(file.member or file.path.name)
            found.setdefault((name.stem if name.suffix.lower() in COMPRESSED else name.name).lower(), file)
    return found


def _ratings_dialect(file: DataFile) -> Dialect:
    if ".csv" in file.suffixes:
        return _published(file, _RATINGS)
    if ".dat" in file.suffixes:
        return Dialect("::", _RATINGS, head=0, quote=None, encoding="latin-1")
    return Dialect("\t", _RATINGS, head=0, quote=None, encoding="latin-1")


def _published(file: DataFile, names: tuple[str, ...]) -> Dialect:
    dialect = sniff(file, set(names), None, "utf-8")
    require_columns(file, dialect.names, {f"data.source movielens: {name}": name for name in names})
    return dialect


def _read_movies(file: DataFile, remarks: Remarks) -> pa.Table:
    if ".csv" in file.suffixes:
        dialect = _published(file, _MOVIES)
    elif ".dat" in file.suffixes:
        dialect = Dialect("::", _MOVIES, head=0, quote=None, encoding=_encoding(file))
    else:
        names = ("movieId", "title", "released", "video", "url", *_GENRES_100K)
        dialect = Dialect("|", names, head=0, quote=None, encoding=_encoding(file))
    table = whole(Keyed(TextTable(file, dialect)), [name for name in dialect.names if name not in ("video", "url")])
    if "genres" in table.column_names:
        genres = pc.split_pattern(table.column("genres"), "|")
    else:
        flags = [pc.equal(table.column(name), "1").to_pylist() for name in _GENRES_100K]
        rows = zip(*flags, strict=True)
        genres = [[name for name, there in zip(_GENRES_100K, row, strict=True) if there] for row in rows]
    listed = genres.to_pylist() if isinstance(genres, pa.ChunkedArray) else genres
    groups = [[name for name in row if name not in _NO_GROUPS] for row in listed]
    return pa.table(
        {
            "item": id_text(table.column("movieId"), "item", remarks),
            "title": table.column("title"),
            "groups": pa.array(groups, pa.list_(pa.string())),
        }
    )


def _encoding(file: DataFile) -> str:
    """100K and 1M are Latin-1, 10M is UTF-8."""
    with file.open() as stream:
        try:
            stream.read().decode()
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8"
