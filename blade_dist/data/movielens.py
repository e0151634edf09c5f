"""MovieLens: a folder with ``ratings.csv`` and ``movies.csv`` (ml-latest, ml-latest-small, ml-25m, ml-32m)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blade_dist.data import csv_file
from blade_dist.data.rawlog import LogColumns, RawLog, require_columns, require_file
from blade_dist.settings import DataSettings

_COLUMNS = LogColumns("userId", "movieId", "timestamp", "rating")
_NO_GROUPS = "(no genres listed)"


def read_movielens(settings: DataSettings, seed: int, folder: Path) -> RawLog:  # noqa: ARG001
    """The ratings, and the movies with their genres as groups.

    Raises:
        UserError: a missing file or column, an unreadable movie.
    """
    assert settings.path is not None  # checked by Config
    ratings, movies = settings.path / "ratings.csv", settings.path / "movies.csv"
    for path in (ratings, movies):
        require_file(path, "data.path")
    needed_by = "data.source movielens"
    require_columns(ratings, csv_file.header(ratings), {f"{needed_by}: {name}": name for name in _COLUMNS.names()})
    names = ["movieId", "title", "genres"]
    table = csv_file.read_items(movies, {f"{needed_by}: {name}": name for name in names})
    genres = pc.if_else(pc.equal(table.column("genres"), _NO_GROUPS), "", table.column("genres"))
    return RawLog(
        rows=csv_file.stream_log([ratings], _COLUMNS),
        items=pa.table(
            {"item": table.column("movieId"), "title": table.column("title"), "groups": pc.split_pattern(genres, "|")}
        ),
        bad_row=partial(csv_file.bad_row, [ratings], _COLUMNS),
    )
