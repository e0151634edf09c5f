"""What several test files share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from hypothesis import settings
from rich.console import Console

from blade_dist.batches import Ragged
from blade_dist.data.bundle import DataBundle, load_data
from blade_dist.data.prepare import prepare_data
from blade_dist.data.prompts import PromptTable, write_prompts
from blade_dist.data.sequence_table import SequenceTable, write_sequences
from blade_dist.data.split import Views
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.align import align_stage
from blade_dist.stages.opened import open_run
from blade_dist.stages.sft import sft_stage
from blade_dist.store.run import RunPaths
from tests.helpers.catalogs import make_catalog
from tests.helpers.program import Program
from tests.helpers.runs import TRAIN_PROMPTS, random_policy, with_settings

# Hypothesis fails an example that takes 0.2 s, which a busy machine makes of any of them.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Two threads of torch wait for each other for a hundredth of a second at a time where other processes have the cores;
# what tests compute is too small to need two. Engines and learners set their own number.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before pytest reads -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses Ray through a fixture is slow; a test that starts processes of its own says so itself."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray for every test that needs one; in its environment is what no process of it may write down."""
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        os.environ.setdefault(name, f"secret-of-a-test-{name}")
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a run small enough for every real-stack test."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    return load_config(
        None,
        [
            f"run.dir={folder}",
            "data.synthetic={users: 120, items: 40, groups: 4, interactions: 24}",
            "data.k_core=2",
            "data.max_history=8",
            "data.targets=3",
            "data.windows=3",
            "lists.k=3",
            "codec.kind=title",
            "model.build={hidden_size: 64, layers: 2, heads: 2, kv_heads: 1, ffn_size: 64, context: 128}",
            "sft={epochs: 12, batch_size: 32, lr: 5.0e-3, dropout: 0.05, patience: 12, validations_per_epoch: 1}",
            "reward.weights={ndcg@3: 1.0, ild@3: 0.3}",
            "evaluate.metrics=[ndcg@3, recall@3, ild@3]",
            "rollout.group_size=4",
            "rollout.max_num_seqs=64",
            "prior.size=4",
            "tracking.tensorboard=false",
        ],
    )


@pytest.fixture(scope="session")
def tiny_data(tiny_config: Config, ray_session: None) -> DataBundle:
    """The tiny run's data, prepared once."""
    prepare_data(tiny_config)
    return load_data(tiny_config.run.dir)


@pytest.fixture(scope="session")
def semantic_run(
    tiny_config: Config, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, DataBundle]:
    """The tiny log with a token for each item."""
    values = tiny_config.model_dump()
    values["run"]["dir"] = tmp_path_factory.mktemp("semantic") / "run"
    values["codec"].update(kind="semantic_id", levels=1)
    config = Config.model_validate(values)
    prepare_data(config)
    return config, load_data(config.run.dir)


@pytest.fixture(scope="session")
def tiny_reference(tiny_config: Config, tiny_data: DataBundle) -> Path:
    """The tiny run's fine-tuned model, by the real stage: good enough that its lists differ in reward."""
    sft_stage(tiny_config, Console(quiet=True))
    return RunPaths(tiny_config.run.dir).reference


@pytest.fixture(scope="session")
def trained(
    tiny_config: Config, tiny_data: DataBundle, tiny_reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, RunPaths]:
    """One step with one rank and one engine, and with two of each, on the same prior."""
    runs: dict[int, RunPaths] = {}
    for number in (1, 2):
        config = with_settings(
            tiny_config,
            tmp_path_factory.mktemp("trained") / str(number),
            train={"steps": 1, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS},
            learner={"workers": number, "clip_grad": 0.0},
            rollout={"engines": number},
        )
        if runs:
            shutil.copyfile(runs[1].prior, RunPaths(config.run.dir).prior)
        align_stage(open_run(config), Console(quiet=True))
        runs[number] = RunPaths(config.run.dir)
    return runs


@pytest.fixture
def program(
    tiny_config: Config,
    ray_session: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Program:
    """The program with a run folder of its own, in which no engine and no learner may start."""

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


@pytest.fixture
def small(tmp_path: Path) -> DataBundle:
    """40 users of a catalog of 12 items, a prompt each in every split; there is no codec."""
    tables, rng = {}, np.random.default_rng(0)
    for name in ("train", "validation", "test"):
        orders = [rng.permutation(12) for _ in range(40)]
        users = pa.array([f"u{number}" for number in range(40)])
        seen, targets = Ragged.of([order[:3] for order in orders]), Ragged.of([order[3:6] for order in orders])
        write_prompts(tmp_path / f"{name}.arrow", [(users, seen, targets, Views.of(seen))])
        tables[name] = PromptTable.load(tmp_path / f"{name}.arrow")
    train = tables["train"].rows(np.arange(40))
    whole_rows = Ragged.of([np.concatenate([train.history[row], train.targets[row]]) for row in range(40)])
    write_sequences(tmp_path / "sequences.arrow", [(pa.array(train.user), whole_rows)])
    sequences = SequenceTable.load(tmp_path / "sequences.arrow")
    return DataBundle(make_catalog(), cast(Any, None), **tables, sequences=sequences, card={})
