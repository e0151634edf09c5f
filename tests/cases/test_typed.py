"""Arrow, Feather and ORC, as Polars, pandas, Hive and Hugging Face write them."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.orc as orc
import pytest

from tests.cases.wild import ROWS, Outcome, Wild, log, titles

NAMES = ["user", "item", "time"]


def table() -> pa.Table:
    return pa.table(dict(zip(NAMES, zip(*log(), strict=True), strict=True)))


def _feather(folder: Path) -> Path:
    wide = table().append_column("more", pa.array([["x"]] * ROWS))
    feather.write_feather(wide.select(["more", *NAMES]), str(folder / "log.feather"), chunksize=50)
    return folder / "log.feather"


def _stream(folder: Path) -> Path:
    """As ``datasets`` caches and saves it, beside its notes."""
    made = folder / "saved"
    made.mkdir()
    (made / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    with pa.ipc.new_stream(str(made / "data-00000-of-00001.arrow"), table().schema) as sink:
        sink.write_table(table(), max_chunksize=50)
    return made


def _categories(folder: Path) -> Path:
    rows = table()
    coded = pa.table(
        {
            "user": rows.column("user").dictionary_encode(),
            "item": rows.column("item"),
            "time": rows.column("time").cast(pa.timestamp("s")),
        }
    )
    with pa.OSFile(str(folder / "log.arrow"), "wb") as file, pa.ipc.new_file(file, coded.schema) as sink:
        sink.write_table(coded)
    return folder / "log.arrow"


def _orc(folder: Path) -> Path:
    orc.write_table(table(), str(folder / "log.orc"), compression="zlib")
    return folder / "log.orc"


def _hive(folder: Path) -> Path:
    for number, day in enumerate(("2020-09-13", "2020-09-14")):
        (folder / "hive" / f"ds={day}").mkdir(parents=True)
        orc.write_table(table().slice(number * (ROWS // 2), ROWS // 2), str(folder / "hive" / f"ds={day}" / "000000_0"))
    return folder / "hive"


WRITTEN = [_feather, _stream, _categories, _orc, _hive]


@pytest.mark.parametrize("write", WRITTEN)
def test_files_with_types(wild: Wild, plain: Outcome, write: Callable[[Path], Path]) -> None:
    made = wild.data(f"data.path={write(wild.folder)}")
    assert (made.log["read"], made.histories) == (ROWS, plain.histories)


def test_items_with_types(wild: Wild, plain: Outcome) -> None:
    items = pa.table({"item": list(titles()), "title": list(titles().values()), "genre": [["a", "b"]] * 24})
    feather.write_feather(items, str(wild.folder / "items.feather"))
    made = wild.data(f"data.items={wild.folder / 'items.feather'}")
    assert (made.histories, made.bundle.catalog.group_names) == (plain.histories, ["a", "b"])


@pytest.mark.parametrize("write", [_feather, _categories, _orc])
def test_a_damaged_file_is_named(wild: Wild, write: Callable[[Path], Path]) -> None:
    path = write(wild.folder)
    path.write_bytes(path.read_bytes()[:-40])
    assert wild.refused(f"data.path={path}").startswith(f"{path.name}: not readable as ")


def test_a_feather_of_version_1_is_refused(wild: Wild) -> None:
    (wild.folder / "log.feather").write_bytes(b"FEA1" + bytes(60))
    assert wild.refused(wild.path("log.feather")).startswith("log.feather: Feather of version 1")


def test_a_row_that_can_t_be_read_is_counted_from_the_first(wild: Wild) -> None:
    rows = table().to_pydict()
    rows["user"][70] = None
    feather.write_feather(pa.table(rows), str(wild.folder / "log.feather"), chunksize=50)
    assert wild.refused(wild.path("log.feather")).startswith("log.feather: row 71: column 'user' is empty")


def test_a_text_may_begin_as_such_a_file(wild: Wild) -> None:
    (wild.folder / "log").write_text("ORC,user,item,time\n" + "".join(f"x,{u},{i},{t}\n" for u, i, t in log()))
    assert wild.data(wild.path("log")).log["read"] == ROWS
