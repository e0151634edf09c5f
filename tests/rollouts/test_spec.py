"""What an engine is started with: one environment, set where the actor starts, and arguments that agree with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blade_dist.rollouts import environment as environments
from blade_dist.rollouts import spec as specs
from blade_dist.rollouts.spec import EngineSpec, engine_arguments, engine_environment
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.store.files import write_json
from blade_dist.store.run import RunPaths

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


def spec(config: Config) -> EngineSpec:
    return EngineSpec.of(config, Path("model"), RunPaths(config.run.dir), 64)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("constrain", ["catalog", "none"])
def test_arguments_leave_the_process_as_it_is(gpu: bool, constrain: str) -> None:
    config = load_config(None, [f"lists.constrain={constrain}"])
    before = dict(os.environ)
    engine_arguments(spec(config), gpu)
    assert dict(os.environ) == before


def test_a_small_model_has_a_small_cache(tmp_path: Path) -> None:
    config = load_config(None, ["rollout.max_num_seqs=512"])
    of = EngineSpec.of(config, tmp_path, RunPaths(config.run.dir), context=60)
    assert engine_arguments(of, gpu=False)["kv_cache_memory_bytes"] == 2**30  # nothing is known of the model
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 64}
    write_json(tmp_path / "config.json", shape)
    assert engine_arguments(of, gpu=False)["kv_cache_memory_bytes"] == 2 * 512 * 64 * 2 * (2 * 16 * 4)
    write_json(tmp_path / "config.json", {**shape, "head_dim": 4096})
    assert engine_arguments(of, gpu=False)["kv_cache_memory_bytes"] == 2**30
    assert "kv_cache_memory_bytes" not in engine_arguments(of, gpu=True)


@pytest.mark.parametrize(("gpu", "runner"), [(False, 1), (True, 1), (True, 2)])
def test_the_environment_names_the_runner_of_the_arguments_processor(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, runner: int
) -> None:
    for module in (specs, environments):
        monkeypatch.setattr(module, "model_runner", lambda _gpu: runner)
    config = load_config(None, [])
    assert engine_environment(config, gpu)[RUNNER] == str(runner - 1)
    assert engine_arguments(spec(config), gpu)["logits_processors"] == [
        f"blade_dist.rollouts.processor_v{runner}:CatalogProcessor"
    ]


def test_without_a_constraint_vllm_chooses_its_runner() -> None:
    config = load_config(None, ["lists.constrain=none"])
    assert RUNNER not in engine_environment(config, gpu=True)
    assert "logits_processors" not in engine_arguments(spec(config), gpu=True)


def test_a_gpu_engine_takes_the_second_runner_where_vllm_has_it() -> None:
    inside = pytest.importorskip("vllm.v1.worker.gpu.sample", reason="vLLM before model runner V2")
    has = any((Path(folder) / "logits_processor").is_dir() for folder in inside.__path__)
    assert specs.model_runner(gpu=True) == (2 if has else 1)
    assert specs.model_runner(gpu=False) == 1
