"""``recommend`` and ``serve`` refuse in one line, with exit code 2, before an engine starts and without a file."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import blade_dist.cli
from blade_dist.cluster.placement import Node
from blade_dist.errors import UserError
from blade_dist.stages.room import Room, check_room, shared_threads
from tests.helpers.program import Program


@pytest.fixture
def served(made: Path, program: Program, no_engine: None) -> Path:
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
    says("trie/rank.npy has 0 bytes instead of ")
    manifest = (served / "recommender.json").read_text()
    (served / "recommender.json").write_text(manifest.replace('"schema_version": 2', '"schema_version": 9'))
    says("schema_version: 9; this version of blade_dist reads 1 and 2")
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


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("blade_dist.stages.room.join_ray", started)
    monkeypatch.delenv("BLADE_SERVE_TOKEN", raising=False)


def test_a_server_that_could_not_serve_starts_nothing(
    program: Program, served: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(message: str, *arguments: str) -> None:
        assert message in program.fails("serve", *arguments, file=served)

    says("--host 0.0.0.0: others can reach it, and BLADE_SERVE_TOKEN is not set", "--host", "0.0.0.0")
    says("--max-replicas 1: fewer than --replicas 2", "--replicas", "2", "--max-replicas", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        says(f"--host 127.0.0.1, --port {port}: cannot listen there: Address already in use", "--port", port)
    monkeypatch.setenv("BLADE_SERVE_TOKEN", "not-long-enough")
    said = program.fails("serve", "--port", port, file=served)
    assert "BLADE_SERVE_TOKEN: must be 16 or more printable ASCII characters" in said
    assert "not-long-enough" not in said
    monkeypatch.delenv("BLADE_SERVE_TOKEN")
    (served / "recommender.json").unlink()
    says("no export there (recommender.json is missing)", "--port", port)


def test_an_interrupt_ends_it_with_one_line(
    served: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blade_dist.stages.serve.serve_stage", interrupted)
    monkeypatch.setattr("sys.argv", ["blade-dist", "serve", str(served)])
    with pytest.raises(SystemExit) as stop:
        blade_dist.cli.main()
    assert stop.value.code == 130
    assert capsys.readouterr() == ("serve: stopped\n", "")


def test_engines_share_the_cores_out_and_must_fit() -> None:
    here, gpus = Node("a", "a", 8.0), Node("b", "b", 16.0, 4)
    assert [shared_threads([here], engines) for engines in (1, 2, 3, 9)] == [8, 4, 2, 1]
    assert shared_threads([here, gpus], 3) == 4
    check_room([here], 2, 1, Room(4, gpu=False), "--engines")
    with pytest.raises(UserError, match=r"--engines 3: each engine takes 4 core\(s\), and there is room for 2 on 1"):
        check_room([here], 3, 1, Room(4, gpu=False), "--engines")
    check_room([here, gpus], 2, 2, Room(1, gpu=True), "--replicas")
    with pytest.raises(UserError, match=r"--replicas 3: each engine takes 1 core\(s\) and 2 GPU\(s\), .* room for 2"):
        check_room([here, gpus], 3, 2, Room(1, gpu=True), "--replicas")
    with pytest.raises(UserError, match="--tensor-parallel 2: there is no GPU"):
        check_room([here], 1, 2, Room(1, gpu=False), "--replicas")
