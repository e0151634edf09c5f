"""Bad input through the program: one line, exit code 2, no engine started, nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blade_dist.cli
from blade_dist.artifacts import RunPaths
from blade_dist.checkpoint import STAMP
from blade_dist.config import save_config
from blade_dist.data.bundle import DataBundle
from blade_dist.posterior.prior import PriorWriter
from blade_dist.rewards.lists import Lists
from blade_dist.settings import Config
from blade_dist.stages.parts import check_inputs
from blade_dist.stages.prior import prior_stamp
from tests.conftest import random_policy


class Program:
    """Runs commands on a settings file of its own."""

    def __init__(self, config: Config, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch):
        self.folder, self._capsys, self._patch = folder, capsys, patch
        values = config.model_dump()
        values["run"]["dir"] = folder / "run"
        self.config = Config.model_validate(values)
        self.paths = RunPaths(self.config.run.dir)
        save_config(self.config, folder / "config.yaml")

    def fails(self, command: str, *arguments: str, file: Path | None = None) -> str:
        """The one line that is said on stderr."""
        argv = ["blade-dist", command, str(file or self.folder / "config.yaml"), *arguments]
        self._patch.setattr("sys.argv", argv)
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            blade_dist.cli.main()
        said = self._capsys.readouterr().err.strip()
        assert stop.value.code == 2, said
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, said
        assert "Traceback" not in said
        return lines[0]


@pytest.fixture
def program(
    tiny_config: Config,
    ray_session: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr("blade_dist.rollouts.pool.RunningPool.__enter__", started)
    monkeypatch.setattr("blade_dist.stages.fit.TorchTrainer", started)
    return Program(tiny_config, tmp_path, capsys, monkeypatch)


@pytest.fixture
def ready(program: Program, tiny_config: Config, tiny_data: DataBundle) -> Program:
    """With data and a reference in place."""
    shutil.copytree(RunPaths(tiny_config.run.dir).data, program.paths.data)
    random_policy(program.config, tiny_data, program.paths.reference, tied=True)
    return program


def table_log(folder: Path, rows: str, header: str = "user,item,time") -> list[str]:
    """Arguments for a CSV log of one's own."""
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


def test_a_missing_log(program: Program) -> None:
    arguments = table_log(program.folder, full_log())
    (program.folder / "log.csv").unlink()
    assert "log.csv" in program.fails("data", *arguments)
    assert not program.paths.data.exists()


def test_a_wrong_column(program: Program) -> None:
    said = program.fails("data", *table_log(program.folder, full_log(), header="user,sku,time"))
    assert "data.columns.item" in said
    assert "sku" in said


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
    assert "lists.k" in program.fails("data", *arguments, "--set", "lists.k=31", "--set", "data.targets=31")


def test_data_of_other_settings(ready: Program) -> None:
    assert "other settings" in ready.fails("data", "--set", "data.max_history=7")


def test_stages_in_the_wrong_order(program: Program, tiny_config: Config) -> None:
    assert "no prepared data" in program.fails("sft")
    shutil.copytree(RunPaths(tiny_config.run.dir).data, program.paths.data)
    for command in ("prior", "train"):
        assert "run `blade-dist sft` first" in program.fails(command)


@pytest.mark.parametrize("command", ["prior", "train"])
def test_an_unknown_metric_in_the_reward(ready: Program, command: str) -> None:
    said = ready.fails(command, "--set", "reward.weights={ndgc@3: 1.0}")
    assert "did you mean ndcg@3?" in said


def test_an_unknown_metric_in_the_report(ready: Program) -> None:
    checkpoint = ("--checkpoint", str(ready.paths.reference))
    assert "did you mean recall@3?" in ready.fails("evaluate", *checkpoint, "--set", "evaluate.metrics=[recal@3]")


def nan_reward(lists: Lists) -> np.ndarray:
    return np.full(len(lists), np.nan)


def flat_reward(lists: Lists) -> float:
    return 1.0


@pytest.mark.parametrize(("name", "message"), [("nan_reward", "returned nan"), ("flat_reward", "returned shape ()")])
def test_a_faulty_reward(ready: Program, name: str, message: str) -> None:
    assert message in ready.fails("train", "--set", f"reward.weights={{'{__name__}:{name}': 1.0}}")
    assert not ready.paths.target("blade").exists()


def test_a_prior_of_another_reference(ready: Program) -> None:
    inputs = check_inputs(ready.config)
    stamp = prior_stamp(ready.config, inputs) | {"reference": "another", "catalog": "elsewhere"}
    writer = PriorWriter(ready.paths.prior, stamp)
    writer.add(inputs.rows, np.zeros((len(inputs.rows), 4)))
    writer.finish()
    said = ready.fails("train")
    assert "the prior was made from another catalog elsewhere" in said
    assert "reference another" in said


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_checkpoint_of_another_model(ready: Program, command: str) -> None:
    foreign = ready.folder / "foreign"
    shutil.copytree(ready.paths.reference, foreign)
    (foreign / STAMP).write_text((foreign / STAMP).read_text().replace('"codec": "', '"codec": "0'))
    out = ("--out", str(ready.folder / "out")) if command == "export" else ()
    assert "a checkpoint of another model" in ready.fails(command, "--checkpoint", str(foreign), *out)
    (foreign / STAMP).unlink()
    assert f"{STAMP} is missing" in ready.fails(command, "--checkpoint", str(foreign), *out)
    assert "no checkpoint there" in ready.fails(command, "--checkpoint", str(ready.folder / "empty"), *out)
    assert not (ready.folder / "out").exists()


def test_a_base_checkpoint_that_is_none(ready: Program) -> None:
    said = ready.fails("sft", "--set", f"model.path={ready.folder / 'nothing'}")
    assert "nothing" in said
    assert "config.json" in said


def test_an_export_does_not_overwrite(ready: Program) -> None:
    (ready.folder / "mine").mkdir()
    arguments = ("--checkpoint", str(ready.paths.reference), "--out", str(ready.folder / "mine"))
    assert "exists and is not an export" in ready.fails("export", *arguments)


def test_an_aligned_model_of_other_settings(ready: Program) -> None:
    (ready.paths.target("blade")).mkdir()
    (ready.paths.target("blade") / "stage.json").write_text('{"stamp": "other", "done": true}')
    assert "made with other settings or inputs" in ready.fails("train")
