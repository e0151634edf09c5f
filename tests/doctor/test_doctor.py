"""The doctor's verdicts, its estimates, and the whole of it on this machine."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
import ray
from rich.console import Console

from blade_dist.cluster.placement import Node, demand, place
from blade_dist.data.bundle import DataBundle
from blade_dist.doctor import findings, look
from blade_dist.doctor.findings import Level
from blade_dist.doctor.memory import Shape, need, parameters
from blade_dist.doctor.report import _memory, _need, doctor, estimate, examine
from blade_dist.learners.policy import build_model
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from tests.helpers.paths import CONFIGS


@pytest.mark.parametrize(("torch", "level"), [("2.13.0", Level.OK), ("2.13.0+cpu", Level.OK), ("2.11.0", Level.FAIL)])
def test_versions_go_together_as_the_packages_say(torch: str, level: Level) -> None:
    wants = {"vllm": ["torch==2.13.0", "absent>1", "torch==1; extra == 'old'"], "torch": []}
    (finding,) = findings.together({"vllm": "0.32.0", "torch": torch}, wants)
    assert finding.level is level
    if level is Level.FAIL:
        assert finding.result == "vllm 0.32.0 requires torch==2.13.0, and 2.11.0 is installed"


def test_space_is_short_tight_or_there() -> None:
    levels = [findings.space("disk", free, 10e9, "make room").level for free in (9e9, 12e9, 20e9)]
    assert levels == [Level.FAIL, Level.WARN, Level.OK]


def test_what_is_wrong_comes_with_a_fix() -> None:
    lines = [
        findings.shared_memory(64e6),
        findings.token("token", there=False),
        findings.token(None, there=True),
        findings.port(6379, "the Ray head", free=False),
        findings.storage("/x", "read-only"),
        findings.sockets("TMPDIR", "/tmp/" + 60 * "x"),
        *findings.network({"10.0.0.2": "timed out"}),
        findings.gpus([{"name": "H100", "free": 10e9, "total": 80e9}]),
    ]
    assert all(line.level is not Level.OK and line.fix for line in lines)


def test_a_folder_for_sockets_may_have_42_characters() -> None:
    levels = [findings.sockets("TMPDIR", "/" + "x" * length).level for length in (41, 42)]
    assert levels == [Level.OK, Level.FAIL]


def test_parameters_are_those_of_the_model(tiny_config: Config) -> None:
    build = tiny_config.model.build
    for tied in (True, False):
        settings = tiny_config.model.model_copy(update={"build": build.model_copy(update={"tied": tied})})
        model = build_model(settings, 300, 0, 1)
        sizes = (build.hidden_size, build.layers, build.heads, build.kv_heads, build.ffn_size)
        assert parameters(*sizes, 300, tied) == sum(parameter.numel() for parameter in model.parameters())


def test_zero_shards_a_learner() -> None:
    shape = Shape(10**9, 2048, 16, 128_256)
    stages = [need(shape, "bfloat16", stage, 8, 1000, 1e9).learner for stage in range(4)]
    assert stages == sorted(stages, reverse=True)
    # weights, gradients, float32 copy, two moments, and the reference's weights
    whole = need(shape, "bfloat16", 0, 8, 0, 0).learner - need(Shape(0, 0, 0, 0), "bfloat16", 0, 8, 0, 0).learner
    assert whole == 10**9 * (2 + 2 + 12 + 2)
    # each rank's part of the float32 copy and the moments, and the whole weights
    assert [need(shape, "bfloat16", stage, 8, 0, 0).copy for stage in range(4)] == [10**9 * (2 + 12 / 8)] * 4


H100 = [{"name": "H100", "total": 85e9, "free": 84e9}] * 8


@pytest.mark.parametrize(
    ("facts", "share", "roles", "level", "words"),
    [
        (H100, 0.35, {"engine": 4e9, "learner": 45e9}, Level.OK, "84.0 GB free, about 74.8 GB needed"),
        (H100, 0.40, {"engine": 4e9, "learner": 45e9}, Level.WARN, "about 79.0 GB needed"),  # a tenth is not left
        (H100, 0.85, {"engine": 4e9, "learner": 45e9}, Level.FAIL, "about 117.2 GB needed"),
        (H100, 0.35, {"learner": 45e9}, Level.OK, "about 45.0 GB needed"),
        (H100, 0.85, {"engine": 20e9}, Level.OK, "about 72.2 GB needed"),
        (H100, 0.85, {"engine": 143e9}, Level.FAIL, "vLLM may take 72.2 GB of 85.0 GB, 143.0 GB needed"),
        ([*H100, {"total": 24e9, "free": 5e9}], 0.35, {"engine": 4e9}, Level.FAIL, "5.0 GB free"),  # by the smallest
        ([], 0.35, {"engine": 4e9}, Level.WARN, "not known: PyTorch sees no GPU there"),
        ("GPUs are in use", 0.35, {"learner": 1e9}, Level.WARN, "not known: GPUs are in use"),
    ],
)
def test_roles_are_compared_with_the_memory_of_their_gpu(
    facts: Any, share: float, roles: dict[str, float], level: Level, words: str
) -> None:
    finding = findings.gpu_memory("10.0.0.1", facts, share, **roles)
    assert finding.level is level
    assert words in finding.result
    assert bool(finding.fix) == (level is not Level.OK)
    assert finding.what == f"GPU memory 10.0.0.1, {' and '.join(roles)}"


@pytest.mark.parametrize("colocated", [True, False])
def test_each_node_with_gpus_has_its_roles_compared(monkeypatch: pytest.MonkeyPatch, colocated: bool) -> None:
    """The plan of 8 GPUs, without one: the looks at the nodes are answered by hand."""
    config = load_config(None, ["model.dtype=bfloat16", f"colocate={str(colocated).lower()}"])
    config = config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update={"engines": 4, "gpu_memory_utilization": 0.3}),
            "learner": config.learner.model_copy(update={"workers": 4}),
        }
    )
    node = Node("id", "10.0.0.1", 64, 8)
    monkeypatch.setattr(look, "gpus_of_node", lambda *_: H100)
    monkeypatch.setattr(look, "on_node", lambda *_: 1e12)
    lines = list(_memory(node, place([node], demand(config)), config, estimate(config), idle=True))
    expected = ["engine and learner"] if colocated else ["engine", "learner"]
    gpus = [f"GPU memory 10.0.0.1, {roles}" for roles in expected]
    assert [line.what for line in lines] == ["memory 10.0.0.1", *gpus]
    assert all(line.level is Level.OK for line in lines)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("llama-*.yaml")), ids=lambda path: path.stem)
def test_the_configs_for_gpus_fit_an_h100(path: Path) -> None:
    config = load_config(path, [])
    shapes = {"1b": Shape(1_235_814_400, 2048, 16, 128_256), "8b": Shape(8_030_261_248, 4096, 32, 128_256)}
    shape = next(shape for size, shape in shapes.items() if size in path.stem)
    needed = _need(config, shape)
    pairs = [{"engine": needed.engine_gpu}, {"learner": needed.learner}]
    for roles in [pairs[0] | pairs[1]] if config.colocate else pairs:
        finding = findings.gpu_memory("10.0.0.1", H100, config.rollout.gpu_memory_utilization, **roles)
        assert finding.level is not Level.FAIL, finding


def test_gpus_in_use_are_not_waited_for() -> None:
    assert look.gpus_of_node("id", 8, idle=False) == "GPUs of the cluster are in use"


def test_what_is_checkpointed_needs_fewer_activations() -> None:
    shape = Shape(10**9, 2048, 16, 128_256)
    plain, again = (need(shape, "bfloat16", 0, 1, 10_000, 0, recomputes=how).learner for how in (False, True))
    assert plain - again == (16 * 16 - (16 + 16)) * 10_000 * 2048 * 2


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    assert look.storage_problem(tmp_path / "a" / "b") == ""
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert look.storage_problem(tmp_path / "file" / "run")


def test_two_ends_are_measured(ray_session: None) -> None:
    here = ray.get_runtime_context().get_node_id()
    rate = look.bandwidth(here, here, "gloo")
    assert isinstance(rate, float), rate
    assert rate > 0


def test_the_doctor_is_content_with_this_machine(
    tiny_config: Config, tiny_data: DataBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "token"))
    console = Console(file=StringIO(), force_terminal=False)
    assert doctor(tiny_config, console)
    shown = cast(StringIO, console.file).getvalue()
    assert f"{len(tiny_data.catalog)} items" in shown
    assert "placement" in shown
    assert "1 learner(s) of" in " ".join(shown.split())
    assert "fail" not in shown


def test_the_doctor_reports_what_does_not_fit(tiny_config: Config, tiny_data: DataBundle, tmp_path: Path) -> None:
    many = tiny_config.rollout.model_copy(update={"engines": 99})
    config = tiny_config.model_copy(update={"rollout": many})
    wrong = {finding.what: finding for finding in examine(config) if finding.level is Level.FAIL}
    assert "need 100 cores" in wrong["cluster"].result
    absent = load_config(None, [f"run.dir={tmp_path / 'other'}", f"model.path={tmp_path / 'none'}"])
    assert any(finding.what == "model" and finding.level is Level.FAIL for finding in examine(absent))


def test_adapters_need_neither_a_reference_nor_optimizer_states_of_every_weight() -> None:
    shape = Shape(parameters=10**9, hidden=2048, layers=16, vocab=128_000)
    two, four = (need(shape, "bfloat16", 0, 1, 0, 0, tensor_parallel=gpus).engine_gpu for gpus in (2, 4))
    assert two - four == 10**9 * 2 / 4  # each GPU has its part of the weights
    whole, lora = (need(shape, "bfloat16", 0, 1, 0, 0, rank, loads_reference=rank is None) for rank in (None, 16))
    without = need(shape, "bfloat16", 0, 1, 0, 0, loads_reference=False)
    assert whole.learner - without.learner == 10**9 * 2
    assert lora.learner < whole.learner / 3
    assert lora.checkpoint < whole.checkpoint / 3
    assert lora.engine == whole.engine
