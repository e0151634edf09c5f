"""What comes of an export that is not whole: ``recommend`` and ``catalog`` say it in one line, and write nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blade_dist.settings.load import load_config
from blade_dist.store.exported import MANIFEST
from tests.helpers.exports import small_export
from tests.helpers.program import Program


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that is made without Ray."""
    return small_export(tmp_path_factory.mktemp("whole"), "one")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that writes its items otherwise."""
    return small_export(tmp_path_factory.mktemp("other"), "title")


@pytest.fixture
def program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(load_config(None, []), tmp_path, capsys, monkeypatch)


@pytest.fixture
def served(whole: Path, program: Program, no_engine: None) -> Path:
    return Path(shutil.copytree(whole, program.folder / "served"))


def missing(name: str) -> Callable[[Path, Path], object]:
    return lambda served, _: (served / name).unlink()


def truncated(name: str, size: int = -7) -> Callable[[Path, Path], object]:
    return lambda served, _: (served / name).write_bytes((served / name).read_bytes()[:size])


def swapped(name: str) -> Callable[[Path, Path], object]:
    return lambda served, other: shutil.copy(other / name, served / name)


def listed(without: str = "nothing", **changes: object) -> Callable[[Path, Path], object]:
    """Another manifest; it does not know the files whose path begins with ``without``."""

    def change(served: Path, _: Path) -> None:
        content = json.loads((served / MANIFEST).read_text())
        files = {path: of for path, of in content["files"].items() if not path.startswith(without)}
        (served / MANIFEST).write_text(json.dumps(content | {"files": files} | changes))

    return change


def garbage(served: Path, _: Path) -> None:
    (served / MANIFEST).write_bytes(b"\xff\xfe\x00")


def a_file(served: Path, _: Path) -> None:
    shutil.rmtree(served)
    served.write_text("no folder")


def a_folder(served: Path, _: Path) -> None:
    (served / "catalog" / "items.arrow").unlink()
    (served / "catalog" / "items.arrow").mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing("model.safetensors"), "served/model.safetensors is missing; copy the export again, as a whole"),
        (missing("catalog/items.arrow"), "served/catalog/items.arrow is missing; copy"),
        (missing("codec/tokenizer/tokenizer.json"), "served/codec/tokenizer/tokenizer.json is missing; copy"),
        (missing(MANIFEST), f"served: no export there ({MANIFEST} is missing); write one with `blade-dist export`"),
        (truncated("model.safetensors"), "served/model.safetensors has "),
        (truncated("model.safetensors", 0), "served/model.safetensors has 0 bytes instead of "),
        (truncated("codec/codec.arrow"), "served/codec/codec.arrow has "),
        (truncated(MANIFEST), f"served/{MANIFEST}: damaged, not valid JSON"),
        (swapped("codec/codec.arrow"), "served/codec/codec.arrow has "),
        (swapped("model.safetensors"), "served/model.safetensors has "),
        (listed(schema_version=3), f"served/{MANIFEST}: schema_version: 3; this version of blade_dist reads 1 and 2: "),
        (listed(schema_version="2"), f"served/{MANIFEST}: schema_version: '2'; this version"),
        (listed(max_history=0), f"served/{MANIFEST}: damaged: max_history: Input should be greater than 0"),
        (listed(lists={"k": "all"}), f"served/{MANIFEST}: damaged: lists.k: Input should be a valid integer"),
        (listed("catalog"), f"served/{MANIFEST}: damaged: files: no catalog/items.arrow there; copy"),
        (listed("model"), f"served/{MANIFEST}: damaged: files: no *.safetensors there; copy"),
        (listed("trie"), f"served/{MANIFEST}: damaged: files: no trie/* there; copy"),
        (garbage, f"served/{MANIFEST}: damaged, not valid JSON"),
        (a_file, "served: no export there"),
        (a_folder, "served/catalog/items.arrow is missing; copy"),
    ],
)
def test_a_damaged_export(
    program: Program, served: Path, other: Path, spoil: Callable[[Path, Path], object], message: str
) -> None:
    spoil(served, other)
    pq.write_table(pa.table({"item": ["i1"], "title": ["One"]}), program.folder / "today.parquet")
    pq.write_table(pa.table({"history": [["i1"]]}), program.folder / "in.parquet")
    day = ("--items", str(program.folder / "today.parquet"), "--out", str(program.folder / "today"))
    many = ("--histories", str(program.folder / "in.parquet"), "--out", str(program.folder / "out.parquet"))
    for command, *arguments in (("catalog", *day), ("recommend", "--history", "i1"), ("recommend", *many)):
        assert message in program.fails(command, *arguments, file=served)
    assert {path.name for path in program.folder.iterdir()} == {"config.yaml", "in.parquet", "served", "today.parquet"}
