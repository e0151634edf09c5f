"""A command's copies: made in the background, said at the end, never the end of the command."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from blade_dist.doctor.report import examine
from blade_dist.errors import UserError
from blade_dist.settings.load import load_config
from blade_dist.stages import copied as module
from blade_dist.stages.copied import copied
from blade_dist.store.copy import read_copy
from blade_dist.store.files import write_json, write_text
from blade_dist.store.stage import mark
from blade_dist.store.storage import Storage
from tests.helpers.program import Program


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_json(tmp_path / "run" / "data" / "card.json", {"settings_fingerprint": "a"})
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.05)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_becomes_whole_is_copied_while_the_command_works(root: Path, tmp_path: Path) -> None:
    said, storage = StringIO(), Storage(str(tmp_path / "there"))
    with copied(root, storage.uri, Console(file=said, width=300)):
        until(lambda: read_copy(storage))
        mark(root / "sft", {"lr": 1}, done=True)
        until(lambda: "sft/stage.json" in read_copy(storage).files)  # type: ignore[union-attr]
        write_text(root / "sft" / "metrics.parquet", "which tells nobody that something is whole")
    assert "sft/metrics.parquet" in read_copy(storage).files  # type: ignore[union-attr]
    assert said.getvalue() == f"copy: {storage.uri} holds all of {root}, 3 files of 149 bytes\n"
    shutil.rmtree(root)
    with copied(root, storage.uri, Console(file=said, width=300)):
        assert (root / "sft" / "stage.json").is_file()
    assert f"copy: data, sft (done) came from {storage.uri}, as {root} had less" in said.getvalue()


def test_a_copy_that_fails_is_said_and_tried_again(root: Path, tmp_path: Path) -> None:
    there, said = tmp_path / "there", StringIO()
    with copied(root, str(there), Console(file=said, width=300)):
        until((there / "manifest.json").is_file)
        shutil.rmtree(there)
        there.write_text("a file in its place")
        mark(root / "sft", {"lr": 1}, done=False)
        until(lambda: "was not copied" in said.getvalue())
        there.unlink()
        mark(root / "sft", {"lr": 1}, done=True)
        until((there / "manifest.json").is_file)
    first, last = said.getvalue().splitlines()
    assert first.startswith(f"copy: warning: {root} was not copied: ")
    assert first.endswith("; tried again at the next checkpoint")
    assert last.startswith(f"copy: {there} holds all of {root}")


@pytest.mark.parametrize("hangs", [True, False])
def test_the_end_says_that_the_copy_is_not_whole(
    root: Path, tmp_path: Path, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALLED_S", 0.3)
    there, said = tmp_path / "there", StringIO()

    def fail(*_: object) -> str:
        time.sleep(5 * hangs)
        raise OSError("the network is down")

    monkeypatch.setattr(Storage, "send", fail)
    with pytest.raises(ValueError, match="the command's own"), copied(root, str(there), Console(file=said, width=300)):
        raise ValueError("the command's own")
    why = "nothing went through for 0 s" if hangs else "the network is down"
    assert said.getvalue() == (
        f"copy: warning: {there} does not hold all of {root} ({why}): run the same command again, and what is missing "
        "is copied\n"
    )


def test_a_storage_that_does_not_answer_is_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.2)
    monkeypatch.setattr(Storage, "check", lambda _: time.sleep(5))
    with (
        pytest.raises(UserError, match=r"run\.copy_to: .* has not answered within 0.2 s"),
        copied(root, str(tmp_path), Console(quiet=True)),
    ):
        pass


@pytest.mark.parametrize("command", ["data", "sft", "prior", "train", "evaluate", "export", "run"])
def test_every_command_that_works_in_the_folder_looks_at_the_storage(program: Program, command: str) -> None:
    line = program.fails(command, *program.needs(command), "--set", "run.copy_to=nope://bucket/run")
    assert line.startswith("error: run.copy_to: nope://bucket/run: no storage is called nope://; known are a path and")


def test_the_doctor_looks_at_it(tmp_path: Path) -> None:
    def row(uri: object) -> tuple[str, str]:
        config = load_config(None, [f"run.copy_to={uri}", f"run.dir={tmp_path / 'run'}"])
        found = next(finding for finding in examine(config) if finding.what == "copy")
        return found.level, found.result

    assert row(tmp_path / "there") == ("ok", f"{tmp_path / 'there'}: takes, gives back and deletes a file")
    level, result = row("nope://bucket/run")
    assert level == "fail"
    assert result.startswith("run.copy_to: nope://bucket/run: no storage is called nope://")
