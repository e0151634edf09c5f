"""Files as other programs write them: separators, compression, folders, archives, encodings."""

import bz2
import csv
import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cases.wild import ROWS, Outcome, Wild, log, write_csv

NAMES = ["user", "item", "time"]


def _text(separator: str = ",") -> str:
    return "\n".join(separator.join(map(str, row)) for row in [NAMES, *log()]) + "\n"


def _table() -> pa.Table:
    return pa.table(dict(zip(NAMES, zip(*log(), strict=True), strict=True)))


def _zip(folder: Path, name: str, members: dict[str, str]) -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)


def _same(made: Outcome, plain: Outcome) -> None:
    prints = [outcome.bundle.card["fingerprints"] for outcome in (made, plain)]
    assert prints[0]["test"] == prints[1]["test"]
    assert prints[0]["sequences"] == prints[1]["sequences"]


@pytest.mark.parametrize(
    ("name", "separator"),
    [
        ("log.tsv", "\t"),
        ("log_tab.csv", "\t"),
        ("semi.csv", ";"),
        ("LOG.CSV", ","),
        ("bar.txt", "|"),
        ("dots.dat", "::"),
        ("noname", ","),
    ],
)
def test_separators_and_suffixes(wild: Wild, plain: Outcome, name: str, separator: str) -> None:
    (wild.folder / name).write_text(_text(separator))
    _same(wild.data(wild.path(name)), plain)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", ["log.csv.gz", "LOG.CSV.GZ", "log.csv"])
def test_compression_is_seen_by_the_content(
    wild: Wild, plain: Outcome, pack: Callable[[bytes], bytes], name: str
) -> None:
    (wild.folder / name).write_bytes(pack(_text().encode()))
    _same(wild.data(wild.path(name)), plain)


def test_a_truncated_archive_is_named(wild: Wild) -> None:
    (wild.folder / "log.csv.gz").write_bytes(gzip.compress(_text().encode() * 50)[:3000])
    assert wild.refused(wild.path("log.csv.gz")).startswith("log.csv.gz: can't be read")
    (wild.folder / "log.zip").write_bytes(b"PK\x03\x04nothing")
    assert wild.refused(wild.path("log.zip")).startswith("log.zip: can't be read")


def test_recbole_files_are_read_by_their_names(wild: Wild, plain: Outcome) -> None:
    rows = "\n".join("\t".join(map(str, row)) for row in log())
    (wild.folder / "log.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{rows}\n")
    items = "\n".join(f'i{n}\t"Title" {n}\tred blue' for n in range(24))
    (wild.folder / "log.item").write_text(f"item_id:token\tname:token_seq\tclass:token_seq\n{items}\n")
    made = wild.data(wild.path("log.inter"), f"data.items={wild.folder / 'log.item'}", "data.columns.groups=class")
    _same(made, plain)
    assert made.bundle.catalog.group_names == ["blue", "red"]
    assert made.titles["i3"] == '"Title" 3'
    assert "column 'user_id' is taken as the user" in made.said


def _spark(folder: Path) -> None:
    pq.write_table(_table(), folder / "part-00000.snappy.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.snappy.parquet.crc").write_bytes(b"crc\0abc")


def _with_empty_parts(folder: Path) -> None:
    (folder / "part-00000.csv").write_text(_text())
    (folder / "part-00001.csv").touch()
    (folder / "part-00002.csv").write_text("user,item,time\n")
    (folder / "README.md").write_text("made by a job")


def _partitioned(folder: Path) -> None:
    for user in dict.fromkeys(row[0] for row in log()):
        (folder / f"user={user}").mkdir()
        rows = [row[1:] for row in log() if row[0] == user]
        write_csv(folder / f"user={user}" / "part-0.csv", NAMES[1:], rows)


def _delta(folder: Path) -> None:
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log" / "0.json").write_text('{"commitInfo": 1}')
    (folder / "_delta_log" / "0.checkpoint.parquet").write_bytes(b"no parquet")
    half = len(_table()) // 2
    pq.write_table(_table().slice(0, half), folder / "a.parquet")
    pq.write_table(_table().slice(half), folder / "b.parquet")


def _pandas(folder: Path) -> None:
    frame = _table().to_pandas().astype({"user": "category"})
    frame.to_parquet(folder / "frame.parquet")


def _hadoop(folder: Path) -> None:
    (folder / "000000_0").write_text(_text("\t"))


@pytest.mark.parametrize("write", [_spark, _with_empty_parts, _partitioned, _delta, _pandas, _hadoop])
def test_folders_as_other_programs_write_them(wild: Wild, plain: Outcome, write: Callable[[Path], None]) -> None:
    (wild.folder / "parts").mkdir()
    write(wild.folder / "parts")
    made = wild.data(wild.path("parts"))
    assert made.log["read"] == ROWS
    assert made.histories == plain.histories


def test_a_folder_of_empty_files_says_so(wild: Wild) -> None:
    (wild.folder / "parts").mkdir()
    (wild.folder / "parts" / "part-0.csv").touch()
    assert "all files at parts are empty" in wild.refused(wild.path("parts"))


def test_a_zip_is_read_as_a_folder(wild: Wild, plain: Outcome) -> None:
    _zip(wild.folder, "log.zip", {"log/log.csv": _text(), "__MACOSX/._log.csv": "x", "log/": ""})
    _same(wild.data(wild.path("log.zip")), plain)


@pytest.mark.parametrize("name", ["log.xlsx", "log.pkl", "log.avro"])
def test_what_is_no_table_is_refused(wild: Wild, name: str) -> None:
    (wild.folder / name).write_bytes(b"PK\x03\x04\0\0")
    assert "export it as one of these" in wild.refused(wild.path(name))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(wild: Wild, plain: Outcome, encoding: str) -> None:
    (wild.folder / "log.csv").write_text(_text(), encoding=encoding)
    _same(wild.data(), plain)


@pytest.mark.parametrize(("byte", "shown"), [(b"\xe9", "0xe9"), (b"\xa0", "0xa0"), (b"\x80", "0x80")])
def test_a_line_that_is_not_utf8_is_named(wild: Wild, byte: bytes, shown: str) -> None:
    with (wild.folder / "log.csv").open("ab") as file:
        file.write(b"Jos" + byte + b",i1,1\n")
    assert wild.refused() == (
        f"log.csv:{ROWS + 2}: not UTF-8 (byte {shown}); if it is Latin-1, set data.encoding=latin-1"
    )
    assert wild.data("data.encoding=latin-1").log["read"] == ROWS + 1


def test_items_that_are_not_utf8_are_named(wild: Wild) -> None:
    with (wild.folder / "items.csv").open("ab") as file:
        file.write(b"i40,Caf\xe9,a\n")
    assert wild.refused().startswith("items.csv:26: not UTF-8 (byte 0xe9)")
    wild.data("data.encoding=latin-1")


@pytest.mark.parametrize("place", ["s3://bucket/log.parquet", "gs://b/x", "hdfs://host/x", "file:///x"])
@pytest.mark.parametrize("setting", ["run.dir", "data.path", "data.items"])
def test_a_uri_is_refused(wild: Wild, setting: str, place: str) -> None:
    assert f"{setting}: a path of this machine is needed, not a URI" in wild.refused(f"{setting}={place}")


def test_home_is_expanded(wild: Wild, plain: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(wild.folder))
    _same(wild.data("data.path=~/log.csv", "data.items=~/items.csv"), plain)


def test_backslash_escaped_quotes(wild: Wild) -> None:
    rows = [(f"i{n}", f'The "best", of {n}', "a") for n in range(24)]
    wild.items(rows, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\")
    assert wild.data().titles["i7"] == 'The "best", of 7'


def test_rows_with_too_many_fields_can_be_left_out(wild: Wild) -> None:
    with (wild.folder / "log.csv").open("a") as file:
        file.write("u0,i1,5,6\nu0,i1\n")
    assert "4 fields where the first line has 3" in wild.refused()
    made = wild.data("data.bad_rows=drop")
    assert (made.log["read"], made.log["unreadable"]) == (ROWS + 2, 2)


@pytest.mark.parametrize(("name", "link"), [("gone.csv", False), ("link.csv", True), ("part-*.csv", False)])
def test_a_path_without_a_file(wild: Wild, name: str, link: bool) -> None:
    if link:
        (wild.folder / name).symlink_to("nowhere.csv")
    leads = " is a link to nowhere.csv, which" if link else ""
    assert wild.refused(wild.path(name)) == f"data.path: {name}{leads} does not exist"
