"""``recommend`` refuses in one line, with exit code 2, before an engine starts and without a file of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.program import Program


@pytest.fixture
def served(made: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> Path:
    def started(*_: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr("blade_dist.rollouts.engine.Engine.__init__", started)
    # the environment of this process is that of other tests too
    monkeypatch.setattr("blade_dist.rollouts.environment.make_ready", lambda *_: None)
    return shutil.copytree(made, program.folder / "served")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --history, or both --histories and --out"),
        (["--history", "i1", "--histories", "a.parquet"], "give --history, or both --histories and --out"),
        (["--histories", "a.parquet"], "give --history, or both --histories and --out"),
        (["--histories", "a.parquet", "--out", "b.parquet"], "--histories a.parquet: no such file"),
        (["--history", ""], "--history: is empty; give at least one item of"),
        (["--history", "none,nobody"], "--history: none of its 2 ids is an item ('none', 'nobody')"),
        (["--history", "i1,a\x1b]0;b"], "--history: 'a\\x1b]0;b' has a control character"),
        (["--history", "i1", "--k", "400"], "--k: 400 items, and there are 40; ask for fewer"),
        (["--history", "i1", "--k", "0"], "--k: Input should be greater than 0"),
        (["--history", "i1", "--at-most", "a"], "--at-most 'a': write GROUP=N, as Drama=2"),
        (["--history", "i1", "--at-most", "a=1"], "there is no group 'a'; did you mean"),
        (["--history", "i1", "--exclude", "group:a"], "--exclude: there is no group 'a'; did you mean"),
    ],
)
def test_what_is_asked_for_wrongly(program: Program, served: Path, arguments: list[str], message: str) -> None:
    assert message in program.fails("recommend", *arguments, file=served)


def test_what_is_no_whole_export(program: Program, served: Path) -> None:
    def says(message: str) -> None:
        assert message in program.fails("recommend", "--history", "i1", file=served)

    (served / "trie" / "rank.npy").write_bytes(b"")
    says("trie/rank.npy: damaged: its checksum is not the one in recommender.json")
    manifest = (served / "recommender.json").read_text()
    (served / "recommender.json").write_text(manifest.replace('"schema_version": 1', '"schema_version": 9'))
    says("schema_version: 9; this version of blade_dist reads 1")
    (served / "recommender.json").write_text(manifest[:-9])
    says("recommender.json: damaged, not valid JSON")
    (served / "recommender.json").unlink()
    says("no export there (recommender.json is missing)")


def test_a_file_of_which_a_row_is_wrong_leaves_nothing(program: Program, served: Path) -> None:
    path = program.folder / "in.parquet"
    pq.write_table(pa.table({"history": [["i1"], ["i2"], ["nobody"]]}), path)
    said = program.fails(
        "recommend", "--histories", str(path), "--out", str(program.folder / "out.parquet"), file=served
    )
    assert "in.parquet, row 2: history: none of its 1 ids is an item ('nobody')" in said
