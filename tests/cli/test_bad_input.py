"""Bad settings and bad logs through the program: one line, exit code 2, no engine started, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from blade_dist.errors import UserError
from tests.helpers.program import Program


def table_log(folder: Path, rows: str, header: str = "user,item,time") -> list[str]:
    """Arguments for a user's CSV log."""
    (folder / "log.csv").write_text(f"{header}\n{rows}")
    items = "\n".join(f"i{n},title {n},a" for n in range(30))
    (folder / "items.csv").write_text(f"item,title,genre\n{items}\n")
    settings = ["data.source=table", f"data.path={folder / 'log.csv'}", f"data.items={folder / 'items.csv'}"]
    return [word for setting in (*settings, "data.columns.groups=genre") for word in ("--set", setting)]


def full_log(users: int = 8, items: int = 20) -> str:
    return "".join(f"u{u},i{(u + n) % 30},{n}\n" for u in range(users) for n in range(items))


def test_a_missing_settings_file(program: Program) -> None:
    assert "nowhere.yaml: No such file" in program.fails("data", file=program.folder / "nowhere.yaml")


def test_an_unknown_setting(program: Program) -> None:
    assert "did you mean learner.lr?" in program.fails("train", "--set", "learner.lrr=1")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("posterior.tau=1.5", "posterior.tau: write a number that is at least 0 and less than 1, or auto; got 1.5"),
        ("reward.weights={ndcg@3: .nan}", "reward.weights.ndcg@3: Input should be a finite number (got nan)"),
        ("learner.lr", "--set learner.lr: write section.key=value"),
    ],
)
def test_a_wrong_value(program: Program, setting: str, message: str) -> None:
    assert message in program.fails("train", "--set", setting)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"run:\n  dir: [\n", "not valid YAML: while parsing a flow node"),
        ("run: {dir: caf\xe9}".encode("latin-1"), "not UTF-8 text: byte 14 is 0xe9"),
    ],
)
def test_a_broken_settings_file(program: Program, content: bytes, message: str) -> None:
    (program.folder / "broken.yaml").write_bytes(content)
    assert f"broken.yaml: {message}" in program.fails("data", file=program.folder / "broken.yaml")


def test_an_error_of_an_actor_is_one_line_too(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("the log:\nis wrong")

    monkeypatch.setattr("blade_dist.stages.data.prepare_data", lambda *_: ray.get(ray.remote(refuse).remote()))
    assert program.fails("data") == "error: the log: is wrong"


@pytest.mark.parametrize("command", ["data", "train", "run"])
def test_a_run_folder_that_is_a_file(program: Program, command: str) -> None:
    (program.folder / "file").touch()
    said = program.fails(command, "--set", f"run.dir={program.folder / 'file' / 'run'}")
    assert f"run.dir: {program.folder / 'file' / 'run'} can't be a folder" in said


def test_a_missing_log(program: Program) -> None:
    arguments = table_log(program.folder, full_log())
    (program.folder / "log.csv").unlink()
    assert "log.csv" in program.fails("data", *arguments)
    assert not program.paths.data.exists()


def test_a_wrong_column(program: Program) -> None:
    said = program.fails("data", *table_log(program.folder, full_log(), header="user,ware,time"))
    assert "data.columns.item" in said
    assert "ware" in said


def test_an_unparsable_row(program: Program) -> None:
    said = program.fails("data", *table_log(program.folder, full_log(users=1) + "u1,i1,yesterday\n"))
    assert "log.csv" in said
    assert "22" in said  # the line
    assert "yesterday" in said
    assert not program.paths.data.exists()


def test_nothing_left_after_filtering(program: Program) -> None:
    assert "k_core" in program.fails("data", *table_log(program.folder, full_log(users=3)), "--set", "data.k_core=15")


def test_a_history_longer_than_the_context(program: Program) -> None:
    said = program.fails("data", "--set", "model.build.context=24")
    assert "data.max_history" in said
    assert "24" in said
    assert not program.paths.data.exists()


def test_k_larger_than_the_catalog(program: Program) -> None:
    arguments = table_log(program.folder, full_log(users=30, items=24))
    assert "lists.k" in program.fails("data", *arguments, "--set", "lists.k=31")
