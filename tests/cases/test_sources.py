"""MovieLens and Amazon in all forms that they are published in."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from blade_dist.data.formats import FORMATS
from blade_dist.data.usable import usable_items
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings

GENRES = 19


def _csv(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,5.0,964982703\n3,2,0.5,964982704\n")
    (folder / "movies.csv").write_text('movieId,title,genres\n2,"Café, Le (1995)",Drama|Comedy\n4,None,unknown\n')


def _dat(encoding: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "ratings.dat").write_text("1::2::5::964982703\n3::2::0.5::964982704\n")
        movies = "2::Café, Le (1995)::Drama|Comedy\n4::None::(no genres listed)\n"
        (folder / "movies.dat").write_text(movies, encoding=encoding)

    return write


def _100k(folder: Path) -> None:
    (folder / "u.data").write_text("1\t2\t5\t964982703\n3\t2\t0.5\t964982704\n")
    flags = ["0"] * GENRES
    flags[5] = flags[8] = "1"
    rows = [["2", "Café, Le (1995)", "01-Jan-1995", "", "http://x?a|b".replace("|", "")], ["4", "None", "", "", ""]]
    unknown = ["1", *["0"] * (GENRES - 1)]
    lines = ["|".join(row + tail) for row, tail in zip(rows, (flags, unknown), strict=True)]
    (folder / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1")
    (folder / "u.genre").write_text("unknown|0\n")


def _zipped(write: Callable[[Path], None]) -> Callable[[Path], Path]:
    def archive(folder: Path) -> Path:
        (folder / "ml").mkdir()
        write(folder / "ml")
        with zipfile.ZipFile(folder / "ml.zip", "w") as made:
            for file in (folder / "ml").iterdir():
                made.write(file, f"ml/{file.name}")
        return folder / "ml.zip"

    return archive


def _only_zipped(folder: Path) -> Path:
    archive = _zipped(_csv)(folder)
    for file in (folder / "ml").iterdir():
        file.unlink()
    (folder / "download").mkdir()
    archive.rename(folder / "download" / "ml.zip")
    return folder / "download"


def _nested(folder: Path) -> Path:
    (folder / "ml-1m").mkdir()
    _dat("latin-1")(folder / "ml-1m")
    return folder


def _here(write: Callable[[Path], None]) -> Callable[[Path], Path]:
    def at(folder: Path) -> Path:
        write(folder)
        return folder

    return at


def _packed(folder: Path) -> Path:
    _csv(folder)
    for file in list(folder.iterdir()):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    return folder


def _kaggle(folder: Path) -> Path:
    deep = folder / "archive" / "ml"
    deep.mkdir(parents=True)
    _csv(deep)
    (deep / "ratings.csv").rename(deep / "rating.csv")
    (deep / "movies.csv").rename(deep / "movie.csv")
    return folder


@pytest.mark.parametrize(
    "made",
    [
        _packed,
        _kaggle,
        _here(_csv),
        _here(_dat("latin-1")),
        _here(_dat("utf-8")),
        _here(_100k),
        _nested,
        _zipped(_csv),
        _zipped(_100k),
        _only_zipped,
    ],
)
def test_movielens(made: Callable[[Path], Path], tmp_path: Path) -> None:
    raw = FORMATS["movielens"](DataSettings(source="movielens", path=made(tmp_path)), 0, tmp_path)
    rows = [tuple(row.values()) for block in raw.rows() for row in block.to_pylist()]
    assert rows == [("1", "2", 964982703_000_000, 5.0), ("3", "2", 964982704_000_000, 0.5)]
    items = raw.items.to_pylist()
    assert sorted(items[0].pop("groups")) == ["Comedy", "Drama"]
    assert items == [{"item": "2", "title": "Café, Le (1995)"}, {"item": "4", "title": "None", "groups": []}]


def test_a_movielens_folder_that_lacks_a_file(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::2::5::1\n")
    with pytest.raises(UserError, match=r"data.path: .*/movies.dat does not exist; a MovieLens .* u.data and u.item"):
        FORMATS["movielens"](DataSettings(source="movielens", path=tmp_path), 0, tmp_path)


USERS, ASINS = ("A1YJEY40YUW4SE", "A60XNB876KYML"), ("B004756YJA", "0123456789")
TIME = 1405209600


def _json(folder: Path, name: str, rows: list[dict], pack: bool = True, write: Callable = json.dumps) -> Path:
    text = "".join(write(row) + "\n" for row in rows)
    path = folder / (name + ".gz" * pack)
    path.write_bytes(gzip.compress(text.encode()) if pack else text.encode())
    return path


def _reviews_2014(folder: Path) -> Path:
    rows = [
        {"reviewerID": user, "asin": asin, "helpful": [0, 0], "overall": 5.0, "unixReviewTime": TIME, "reviewText": "x"}
        for user, asin in zip(USERS, ASINS, strict=True)
    ]
    return _json(folder, "reviews_5.json", rows)


def _reviews_2023(folder: Path) -> Path:
    rows = [
        {"user_id": user, "parent_asin": asin, "asin": "B000000000", "rating": 5.0, "timestamp": TIME * 1000}
        for user, asin in zip(USERS, ASINS, strict=True)
    ]
    return _json(folder, "All_Beauty.jsonl", rows)


def _lines(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def _ratings_2014(folder: Path) -> Path:
    return _lines(folder, "ratings_Beauty.csv", *(f"{u},{a},5.0,{TIME}" for u, a in zip(USERS, ASINS, strict=True)))


def _ratings_2018(folder: Path) -> Path:
    return _lines(folder, "Beauty.csv", *(f"{a},{u},5.0,{TIME}" for u, a in zip(USERS, ASINS, strict=True)))


def _ratings_2023(folder: Path) -> Path:
    rows = (f"{u},{a},5.0,{TIME * 1000}" for u, a in zip(USERS, ASINS, strict=True))
    return _lines(folder, "5core.csv", "user_id,parent_asin,rating,timestamp", *rows)


def _meta(year: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        key = "parent_asin" if year == 2023 else "asin"
        categories = {
            2014: {"categories": [["Beauty", "Hair"], ["Beauty", "Nails"]]},
            2018: {"category": ["Beauty", "Hair", "Nails"], "main_cat": "All"},
            2023: {"categories": ["Beauty", "Hair", "Nails"], "main_category": "All"},
        }[year]
        rows = [{key: ASINS[0], "title": 'Bob\'s "Comb"', "price": 3.5, **categories}, {key: ASINS[1], "price": "$1"}]
        return _json(folder, "meta.json", rows, write=str if year == 2014 else json.dumps)

    return write


@pytest.mark.parametrize("meta", [_meta(year) for year in (2014, 2018, 2023)])
@pytest.mark.parametrize("log", [_reviews_2014, _reviews_2023, _ratings_2014, _ratings_2018, _ratings_2023])
def test_amazon(log: Callable[[Path], Path], meta: Callable[[Path], Path], tmp_path: Path) -> None:
    settings = DataSettings(source="amazon", path=log(tmp_path), items=meta(tmp_path))
    raw = FORMATS["amazon"](settings, 0, tmp_path)
    rows = [tuple(row.values()) for block in raw.rows() for row in block.to_pylist()]
    assert rows == [(user, asin, TIME * 10**6, 5.0) for user, asin in zip(USERS, ASINS, strict=True)]
    items, _ = usable_items(raw.items, raw.remarks)
    assert items.to_pylist() == [{"item": ASINS[0], "title": 'Bob\'s "Comb"', "groups": ["Hair", "Nails"]}]


def test_amazons_files_are_tables_too(tmp_path: Path) -> None:
    settings = DataSettings(source="table", path=_ratings_2023(tmp_path), items=_meta(2023)(tmp_path))
    raw = FORMATS["table"](settings, 0, tmp_path)
    assert sum(len(block) for block in raw.rows()) == 2
    assert raw.items.column("item").to_pylist() == list(ASINS)
