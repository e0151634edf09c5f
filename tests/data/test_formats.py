"""Each format's reader: what it reads, and what it says of bad input."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.data.formats import FORMATS
from blade_dist.data.partition import ReadCounts, read_sequences
from blade_dist.data.rawlog import RawLog
from blade_dist.data.usable import build_catalog, usable_items
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings

S = 10**6
"""Microseconds in a second: what has no unit counts as seconds."""
RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,7\n1,20,1.5,5\n2,10,3,9\n"
MOVIES = 'movieId,title,genres\n10,"Heat, The (1995)",Crime|Drama\n20,Jaws,(no genres listed)\n'
REVIEWS = [
    {"user_id": "A", "parent_asin": "0012", "timestamp": 1588687728923, "rating": 5.0, "images": []},
    {"user_id": "B", "parent_asin": "B0", "timestamp": 1588687728924, "rating": 1.0, "images": [{"x": 1}]},
]
META = [
    {"parent_asin": "0012", "title": "Kind of Blue", "categories": ["CDs", "Jazz", "Cool"], "main_category": "Music"},
    {"parent_asin": "B0", "title": None, "categories": [], "main_category": "Music", "price": "x"},
    {"parent_asin": "B1", "title": "Blue", "categories": ["CDs"], "main_category": None},
]


def _movielens(folder: Path, ratings: str = RATINGS, movies: str = MOVIES) -> DataSettings:
    (folder / "ratings.csv").write_text(ratings)
    (folder / "movies.csv").write_text(movies)
    return DataSettings(source="movielens", path=folder)


def _amazon(folder: Path, reviews: list[str], meta: list[str] | None = None) -> DataSettings:
    with gzip.open(folder / "reviews.jsonl.gz", "wt") as file:
        file.write("\n".join(reviews) + "\n")
    (folder / "meta.jsonl").write_text("\n".join(meta or [json.dumps(row) for row in META]))
    return DataSettings(source="amazon", path=folder / "reviews.jsonl.gz", items=folder / "meta.jsonl")


def _table(folder: Path, log: pa.Table | str, items: pa.Table | str, **columns: str) -> DataSettings:
    paths = {}
    for name, content in (("path", log), ("items", items)):
        paths[name] = folder / f"{name}.{'csv' if isinstance(content, str) else 'parquet'}"
        if isinstance(content, str):
            paths[name].write_text(content)
        else:
            pq.write_table(content, paths[name])
    return DataSettings(source="table", columns=columns, **paths)  # type: ignore[arg-type]


def _read(settings: DataSettings, folder: Path) -> RawLog:
    return FORMATS[settings.source](settings, 0, folder)


def _rows(settings: DataSettings, folder: Path) -> list[tuple]:
    blocks = _read(settings, folder).rows()
    return [tuple(row.values()) for block in blocks for row in block.to_pylist()]


def _all_of_it(settings: DataSettings, folder: Path) -> ReadCounts:
    log = _read(settings, folder)
    items, _ = usable_items(log.items, log.remarks)
    cleaned = RawLog(log.rows, items, log.bad_row, log.remarks)
    return read_sequences(cleaned, settings.min_rating, settings.repeats, settings.partition_rows, folder)[1]


def test_movielens_is_read(tmp_path: Path) -> None:
    settings = _movielens(tmp_path)
    assert _rows(settings, tmp_path) == [("1", "10", 7 * S, 4.0), ("1", "20", 5 * S, 1.5), ("2", "10", 9 * S, 3.0)]
    catalog = build_catalog(_read(settings, tmp_path).items, np.zeros(2, np.int64))
    assert catalog.titles.tolist() == ["Heat, The (1995)", "Jaws"]
    assert catalog.group_names == ["Crime", "Drama"]
    assert catalog.groups.lengths.tolist() == [2, 0]


def test_amazon_is_read_with_its_numeric_ids_as_text(tmp_path: Path) -> None:
    settings = _amazon(tmp_path, [json.dumps(row) for row in REVIEWS])
    assert _rows(settings, tmp_path) == [("A", "0012", 1588687728923_000, 5.0), ("B", "B0", 1588687728924_000, 1.0)]
    items = _read(settings, tmp_path).items
    assert items.column("groups").to_pylist() == [["Jazz", "Cool"], ["Music"], []]
    assert _all_of_it(settings, tmp_path) == ReadCounts(
        read=2, without_title=1, items_without_title=1, kept=1, users=2, users_without_title=1, users_with_one_item=1,
        items=2,
    )  # fmt: skip


def test_a_csv_table_is_read_by_its_column_names(tmp_path: Path) -> None:
    log = "when,who,what,x\n 5,a,i1,?\n6.0,b,i2,?\n"
    items = "what,name,tags\ni1,One,p;q\ni2,Two,\n"
    names = {"user": "who", "item": "what", "time": "when", "title": "name", "groups": "tags"}
    settings = _table(tmp_path, log, items, **names).model_copy(update={"group_separator": ";"})
    assert _rows(settings, tmp_path) == [("a", "i1", 5 * S, None), ("b", "i2", 6 * S, None)]
    catalog = build_catalog(_read(settings, tmp_path).items, np.zeros(2, np.int64))
    assert [catalog.group_names, catalog.groups.lengths.tolist()] == [["p", "q"], [2, 0]]


def test_a_parquet_table_brings_numbers_dates_lists_and_embeddings(tmp_path: Path) -> None:
    when = pa.array([2, 1], pa.timestamp("ms"))
    log = pa.table({"user": [1, 2], "item": ["i1", "i2"], "time": when, "stars": [1, 2]})
    items = pa.table({"item": ["i1", "i2"], "title": ["One", "Two"], "g": [["p"], []], "e": [[1.0, 2.0], [3.0, 4.0]]})
    settings = _table(tmp_path, log, items, rating="stars", groups="g", embedding="e")
    assert _rows(settings, tmp_path) == [("1", "i1", 2000, 1.0), ("2", "i2", 1000, 2.0)]
    catalog = build_catalog(_read(settings, tmp_path).items, np.zeros(2, np.int64))
    assert catalog.embeddings is not None
    np.testing.assert_array_equal(catalog.embeddings, [[1, 2], [3, 4]])
    assert catalog.groups.lengths.tolist() == [1, 0]


def test_a_folder_of_files_keeps_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    for number in (2, 1, 3):
        (folder / f"part{number}.csv").write_text(f"user,item,time\nu,i{number},5\n")
    items = "item,title\n" + "".join(f"i{number},T{number}\n" for number in (1, 2, 3))
    settings = _table(tmp_path, "", items).model_copy(update={"path": folder})
    log = _read(settings, tmp_path)
    store, _ = read_sequences(log, None, "first", 10, tmp_path)
    assert log.items.column("item").take(pa.array(store.load(0).items[0])).to_pylist() == ["i1", "i2", "i3"]


def test_partitions_hold_all_rows_of_their_users(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 30, 400), rng.integers(0, 20, 400)
    log = pa.table({"user": users, "item": items, "time": np.arange(400)})
    settings = _table(tmp_path, log, pa.table({"item": range(20), "title": [f"t{n}" for n in range(20)]}))
    rows: dict[int, dict] = {}
    for size in (400, 70):
        folder = tmp_path / str(size)
        folder.mkdir()
        store, counts = read_sequences(_read(settings, folder), None, "first", size, folder)
        assert len(store) == -(-400 // size)
        parts = [store.load(partition) for partition in range(len(store))]
        rows[size] = {user: part.items[n].tolist() for part in parts for n, user in enumerate(part.users.to_pylist())}
        assert sum(map(len, parts)) == len(rows[size])  # no user in two partitions
        assert sum(map(len, rows[size].values())) == counts.kept == 400 - counts.repeated
    assert rows[400] == rows[70]


def test_low_ratings_are_dropped_and_counted(tmp_path: Path) -> None:
    settings = _movielens(tmp_path).model_copy(update={"min_rating": 3.0})
    assert _all_of_it(settings, tmp_path) == ReadCounts(
        read=3, low_rating=1, kept=2, users=2, users_with_one_item=2, items=2, items_low_rating=1
    )


def test_a_min_rating_needs_ratings(tmp_path: Path) -> None:
    settings = _table(tmp_path, "user,item,time\na,b,1\n", "item,title\nb,B\n").model_copy(update={"min_rating": 3.0})
    with pytest.raises(UserError, match=r"data.min_rating: the log has no ratings"):
        _all_of_it(settings, tmp_path)


LINE = "a,b,1,2\n"
BAD_CSV = [
    ("user,item,time,r\n" + LINE * 9000 + "a,b,soon,2\n", "path.csv:9002: column 'time': 'soon' is no time"),
    ("user,item,time,r\na,b,31.01.24,2\n", "path.csv:2: column 'time': '31.01.24' is no time"),
    ("user,item,time,r\n" + LINE + '"x\ny",b,1,good\n', "path.csv:3: column 'r': 'good' is not a number"),
    ("user,item,time,r\n" + LINE + "a,b,1,4+\n", "path.csv:3: column 'r': '4\\+' is not a number"),
    ("user,item,time,r\n" + LINE + ",b,1,2\n", "path.csv:3: column 'user' is empty"),
    ("user,item,time,r\n" + LINE + "a,b,1\n", "path.csv:3: 3 fields where the first line has 4"),
    ("user,item,when,r\n" + LINE, r"path.csv: no column 'time' \(data.columns.time\); it has user, item, when, r"),
    ("", "path.csv: the file is empty"),
]


@pytest.mark.parametrize(("log", "message"), BAD_CSV)
def test_a_bad_csv_row_names_file_and_line(tmp_path: Path, log: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _all_of_it(_table(tmp_path, log, "item,title\nb,B\n", rating="r"), tmp_path)


def test_a_bad_parquet_row_names_file_and_row(tmp_path: Path) -> None:
    log = pa.table({"user": ["a", "b", None], "item": ["b"] * 3, "time": [1, 2, 3]})
    with pytest.raises(UserError, match=r"path.parquet: row 3: column 'user' is empty"):
        _all_of_it(_table(tmp_path, log, "item,title\nb,B\n"), tmp_path)


GOOD = json.dumps(REVIEWS[0])
BAD_JSON = [
    ([GOOD, "", GOOD[:-3]], r"reviews.jsonl.gz:3: not a JSON object"),
    ([GOOD, json.dumps({**REVIEWS[0], "rating": "five"})], r"reviews.jsonl.gz:2: field 'rating': .*five"),
    ([GOOD, json.dumps({"user_id": "A", "parent_asin": "B0", "rating": 1})], "jsonl.gz:2: column 'timestamp': None"),
    ([json.dumps({"user": "A"})], r"no column 'user_id' \(data.source amazon: user_id\); it has user"),
    (["hello"], "reviews.jsonl.gz:1: not a JSON object"),
]


@pytest.mark.parametrize(("reviews", "message"), BAD_JSON)
def test_a_bad_json_line_names_file_and_line(tmp_path: Path, reviews: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _all_of_it(_amazon(tmp_path, reviews), tmp_path)


def test_bad_items_name_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"movies.csv:3: 2 fields where the first line has 3"):
        _read(_movielens(tmp_path, movies=MOVIES.replace(",(no genres listed)", "")), tmp_path)
    with pytest.raises(UserError, match=r"meta.jsonl:2: not a JSON object"):
        _read(_amazon(tmp_path, [GOOD], [json.dumps(META[0]), '{"parent_asin": "B1", "title": }']), tmp_path)
    with pytest.raises(UserError, match=r"items.csv: no column 'title' \(data.columns.title\); it has item, label"):
        _read(_table(tmp_path, "user,item,time\n", "item,label\n"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "movielens", "path": "no/where"}, "data.path: no/where does not exist"),
        ({"source": "amazon", "path": "no.jsonl", "items": "x"}, "data.path: no.jsonl does not exist"),
        ({"source": "table", "path": "no.csv", "items": "x"}, "data.path: no.csv does not exist"),
    ],
)
def test_a_missing_file_is_named(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        _read(DataSettings(**settings), tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").write_text("")
    settings = DataSettings(source="table", path=tmp_path / "log.xlsx", items=tmp_path / "x")
    with pytest.raises(UserError, match=r"data.path: .*log.xlsx is neither .csv nor .parquet"):
        _read(settings, tmp_path)
