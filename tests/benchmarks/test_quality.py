"""Cells, what is done once, and the whole command on a small log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.quality import runner as module
from benchmarks.quality.__main__ import _results, main
from benchmarks.quality.cells import OF_PRIOR, Cell, Changes, only
from benchmarks.quality.movielens import PARETO, PARETO_TARGETS, TARGETS, changed, pareto_cells, sensitivity_cells
from benchmarks.quality.runner import LIGHT, Runner
from benchmarks.report import write_result
from blade_dist.store.run import RunPaths
from tests.helpers.paths import ROOT


def of_prior(cell: Cell) -> Changes:
    return only(cell.changes, OF_PRIOR)


class TestCells:
    def test_a_prior_is_shared_where_nothing_it_depends_on_differs(self) -> None:
        assert all(not of_prior(Cell(0, name, 1e-3, changes)) for name, changes in TARGETS.items())
        blade = Cell(0, "blade", 1e-3, TARGETS["blade"])
        cells = sensitivity_cells(blade, {"prior.size": 32, "posterior.tau": 0.3}.get)
        own = {name for name, values in cells.items() if any(of_prior(cell) for cell in values.values())}
        assert own == {"prior.size", "rollout.k"}
        assert [value for value, cell in cells["prior.size"].items() if not of_prior(cell)] == ["32"]
        assert cells["posterior.tau"]["0.3"] == cells["prior.size"]["32"] == blade
        static = changed(Cell(0, "static", 5e-4, TARGETS["static"]), "prior.size", 8, {"prior.size": 32}.get)
        assert of_prior(static) == of_prior(cells["prior.size"]["8"]) == {"prior.size": 8}
        assert (static.target, static.lr, static.name) == ("static", 5e-4, "static prior.size 8")

    def test_every_cell_has_a_folder_of_its_own(self) -> None:
        cells = [Cell(0, name, lr, changes) for name, changes in TARGETS.items() for lr in (1e-3, 2e-3)]
        cells += pareto_cells(0, dict.fromkeys(PARETO_TARGETS, 1e-3), list(PARETO.values()))
        changed = sensitivity_cells(Cell(0, "blade", 3e-3, TARGETS["blade"]), {}.get)
        cells += [cell for values in changed.values() for cell in values.values()]
        assert len({cell.folder for cell in cells}) == len(cells)
        assert all(set(cell.folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for cell in cells)


class TestRunner:
    @pytest.fixture
    def runner(self, tmp_path: Path) -> Any:
        (tmp_path / "preset.yaml").write_text(yaml.safe_dump(PRESET))
        return Runner(tmp_path / "runs", tmp_path / "preset.yaml", Console(quiet=True), tmp_path)

    def test_work_is_done_once(self, runner: Any, tmp_path: Path) -> None:
        done: list[str] = []
        for _ in range(2):
            runner.once(tmp_path / "runs" / "a", {"run.seed": 0}, "train", tmp_path, lambda: done.append("train"))
        runner.once(tmp_path / "runs" / "a", {"run.seed": 0}, "evaluate", tmp_path, lambda: done.append("evaluate"))
        assert done == ["train", "evaluate"]
        assert runner.seconds()["a"].keys() == {"train", "evaluate"}

    def test_work_whose_result_is_gone_is_done_again(self, runner: Any, tmp_path: Path) -> None:
        run, makes, done = tmp_path / "runs" / "a", tmp_path / "weights", 0

        def work() -> None:
            nonlocal done
            done += 1
            makes.touch()

        for _ in range(2):
            runner.once(run, {}, "train", makes, work)
        makes.unlink()
        runner.once(run, {}, "train", makes, work)
        assert done == 2
        assert json.loads((run / "cell.json").read_text())["finished"] == ["train"]

    def test_the_light_files_are_enough_wherever_the_log_lies(
        self, runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing of a finished cell is made again for the table, its reference and data included."""

        def stage(name: str, config: Any, *_checkpoints: Path) -> None:
            done.append(name)
            paths = RunPaths(config.run.dir)
            for makes in STAGE_MAKES[name](paths):
                makes.parent.mkdir(parents=True, exist_ok=True)
                makes.touch()

        done: list[str] = []
        monkeypatch.setattr(module, "stage", stage)
        cell = Cell(1, "blade", 1e-3, {"target": "blade"})
        runner.evaluated(cell)
        assert done == ["data", "sft", "prior", "train", "evaluate"]
        light = tmp_path / "light"
        copy_light(tmp_path / "runs", light)
        log = tmp_path / "elsewhere" / tmp_path.name
        log.mkdir(parents=True)
        elsewhere = module.Runner(light, tmp_path / "preset.yaml", Console(quiet=True), log)
        done.clear()
        run = elsewhere.evaluated(cell)
        elsewhere.aligned(cell)
        assert done == []
        assert elsewhere.seconds()["seed1/blade-lr-0.001-4188"].keys() == {"train", "evaluate"}
        assert (run / "evaluation" / "per_user.parquet").is_file()
        elsewhere.evaluated(Cell(1, "static", 1e-3, {"target": "static"}))
        assert done == ["data", "sft", "prior", "train", "evaluate"]

    def test_failed_work_is_tried_again_and_its_time_counts(self, runner: Any, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "a"

        def fails() -> None:
            sleep(0.2)
            raise SystemExit

        with suppress(SystemExit):
            runner.once(run, {}, "train", tmp_path, fails)
        runner.once(run, {}, "train", tmp_path, lambda: None)
        assert 0.2 < runner.seconds()["a"]["train"] < 2

    def test_a_folder_of_other_settings_is_refused(self, runner: Any, tmp_path: Path) -> None:
        run = tmp_path / "runs" / "a"
        runner.once(run, {"learner.lr": 1e-3}, "train", tmp_path, lambda: None)
        with pytest.raises(SystemExit, match="delete it or choose another --folder"):
            runner.once(run, {"learner.lr": 2e-3}, "train", tmp_path, lambda: None)
        runner.once(run, {"learner.lr": 1e-3}, "evaluate", tmp_path, lambda: None, more={"evaluate.best_of": (2, 4)})
        runner.once(run, {"learner.lr": 1e-3}, "evaluate", tmp_path, lambda: None, more={"evaluate.best_of": [2, 4]})
        with pytest.raises(SystemExit, match="delete it or choose another --folder"):
            runner.once(run, {"learner.lr": 1e-3}, "evaluate", tmp_path, lambda: None, more={"evaluate.best_of": (2,)})

    def test_the_preset_says_what_it_has(self, runner: Any) -> None:
        assert runner.preset_value("prior.size") == 4
        assert runner.preset_value("posterior.tau") == 0.3


STAGE_MAKES = {
    "data": lambda paths: [paths.data / "card.json"],
    "sft": lambda paths: [paths.reference / "config.json"],
    "prior": lambda paths: [paths.prior],
    "train": lambda paths: [paths.target("blade") / "metrics.parquet", paths.policy("blade") / "config.json"],
    "evaluate": lambda paths: [paths.evaluation / "per_user.parquet"],
}
"""What a stage leaves."""

PRESET = {
    "data": {"source": "movielens", "k_core": 2, "max_history": 8, "targets": 5, "windows": 0},
    "codec": {"kind": "semantic_id", "levels": 1, "codes": 64, "prompt": "{history}"},
    "model": {"build": {"hidden_size": 32, "layers": 1, "heads": 1, "kv_heads": 1, "ffn_size": 32, "context": 32}},
    "sft": {"epochs": 2, "batch_size": 32},
    "prior": {"size": 4},
    "rollout": {"group_size": 4, "max_num_seqs": 64},
    "train": {"steps": 2, "prompts": 16, "prompts_per_step": 8, "checkpoint_every": 1, "validation_prompts": 10},
    "evaluate": {"metrics": ["ndcg@5", "ild@5", "mgu@5"], "beam_width": 2},
    "tracking": {"tensorboard": False},
}


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    """60 users and 30 movies; a movie is mostly followed by the same other one."""
    folder, rng = tmp_path / "log", np.random.default_rng(0)
    folder.mkdir()
    rows = ["userId,movieId,rating,timestamp"]
    for user in range(60):
        order = (rng.integers(30) + 7 * np.arange(24)) % 30
        late = rng.random(24) < 0.2
        order[late] = rng.permutation(order[late])
        rows += [f"{user},{movie},4.0,{86_400 * user + 900 * place}" for place, movie in enumerate(order)]
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    movies = [f'{movie},"Film {movie}, the (2001)",{"Drama|War" if movie % 3 else "Comedy"}' for movie in range(30)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n")
    return folder


def copy_light(folder: Path, to: Path) -> None:
    """Copies the files that the table reads."""
    for path in folder.rglob("*"):
        if path.name in LIGHT:
            (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to / path.relative_to(folder))


def quality(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.quality", "--folder", str(folder), *options]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads that wait for each other take minutes on a busy machine
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=alone, cwd=ROOT)


@pytest.mark.skipif("BLADE_BENCHMARKS" not in os.environ, reason="takes minutes; BLADE_BENCHMARKS=1 runs it")
def test_the_whole_command_resumes_and_says_what_it_found(movielens: Path, tmp_path: Path) -> None:
    """One seed, two targets, two steps, one learning rate: every stage is real."""
    preset, out, runs = tmp_path / "tiny.yaml", tmp_path / "out.json", tmp_path / "runs"
    preset.write_text(yaml.safe_dump(PRESET))
    options = ["--data", str(movielens), "--preset", str(preset), "--seeds", "1", "--rate", "0.002", "--json", str(out)]
    options += ["--target", "static", "--target", "blade"]
    done = quality(runs, *options)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    first = json.loads(out.read_text())
    assert first["held_out_ndcg5"].keys() == {"blade_vs_static", "blade_vs_sft"}
    assert first["held_out_ndcg5"]["blade_vs_sft"].keys() == {"mean", "low", "high", "relative"}
    policies = {"popularity", "co-occurrence", "successors", "EASE", "sft", "SASRec", "static", "blade"}
    searches = {f"sft best of {n}{mark}" for n in (2, 4, 8, 16) for mark in ("", " (oracle)")}
    assert set(first["tables"]["list"]) == set(first["tables"]["beam"]) == policies
    assert set(first["tables"]["sampled"]) == policies | searches
    assert {"ndcg@5", "coverage", "gini", "miss", "ndcg@5, head items"} <= first["tables"]["list"]["blade"].keys()
    assert [cell["name"] for cell in first["cells"]] == ["static", "blade"]
    assert {"train", "evaluate"} in [set(seconds) for seconds in first["seconds"].values()]
    assert first["seconds"]["seed0/reference"].keys() == {"sft", "prior", "evaluate"}
    rows = pd.read_parquet(runs / "rows-main-seed0.parquet")
    assert len(rows) == (3 * len(policies) + len(searches)) * rows["prompt"].nunique()
    assert {path.name for path in tmp_path.glob("*.png")} == {"out-curves.png", "out-search.png"}
    began = {path: path.stat().st_mtime_ns for path in runs.rglob("*/*") if path.is_file()}
    again = quality(runs, *options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*/*") if path.is_file()} == began
    assert {k: v for k, v in json.loads(out.read_text()).items() if k != "when"} == {
        k: v for k, v in first.items() if k != "when"
    }
    light = tmp_path / "light"
    copy_light(runs, light)
    elsewhere = quality(light, *options)
    assert elsewhere.returncode == 0, elsewhere.stderr[-3000:]
    assert {path.name for path in light.rglob("*") if path.suffix == ".safetensors"} == set()
    assert json.loads(out.read_text())["tables"] == first["tables"]
    preset.write_text(yaml.safe_dump(PRESET | {"prior": {"size": 8}}))
    other = quality(runs, *options)
    assert other.returncode == 2
    assert "holds results of another preset" in " ".join(other.stderr.replace("│", " ").split())
    out.unlink()
    other = quality(runs, *options)
    assert other.returncode != 0
    assert "made with another preset" in other.stderr


def test_a_part_is_added_to_those_that_a_file_has(tmp_path: Path) -> None:
    out, settings = tmp_path / "out.json", {"preset": {}, "seeds": 3, "rates": [1e-3]}
    assert _results(out, settings) == {}
    write_result(out, "quality", settings, {"tables": {"list": {}}})
    assert _results(out, settings) == {"tables": {"list": {}}}
    with pytest.raises(typer.BadParameter, match="choose another file"):
        _results(out, settings | {"seeds": 5})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nowhere"], "no ratings.csv"),
        (["--data", "{log}", "--target", "nothing"], "nothing: unknown"),
        (["--data", "{log}", "--part", "pareto", "--trade", "ild@5=2"], "ild@5=2: unknown; one of: ild@5=0.1"),
        (["--data", "{log}", "--preset", "{preset}"], "validation_prompts is 0"),
        (["--data", "{log}", "--preset", "nowhere.yaml"], "No such file"),
        (["--data", "{log}", "--preset", "{windows}"], "data.windows must be 0: the next-item model"),
        (["--synthetic", "--rate", "0.1"], "--seeds, --target, --folder and --json only"),
        (["--synthetic", "--target", "blade"], "static is what ratios are of"),
    ],
)
def test_bad_input_is_said_before_anything_runs(options: list[str], said: str, movielens: Path, tmp_path: Path) -> None:
    preset = tmp_path / "tiny.yaml"
    preset.write_text(yaml.safe_dump(PRESET | {"train": {"validation_prompts": 0}}))
    windows = tmp_path / "windows.yaml"
    windows.write_text(yaml.safe_dump(PRESET | {"data": PRESET["data"] | {"windows": 3}}))
    places = {"log": movielens, "preset": preset, "windows": windows}
    app = typer.Typer()
    app.command()(main)
    given = [option.format(**places) for option in options]
    done = CliRunner().invoke(app, ["--folder", str(tmp_path / "runs"), *given])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "runs").exists()
