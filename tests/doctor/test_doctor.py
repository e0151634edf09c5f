"""The doctor's verdicts, its estimates, and the whole of it on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray
from rich.console import Console

from blade_dist.data.bundle import DataBundle
from blade_dist.doctor import findings, look
from blade_dist.doctor.findings import Level
from blade_dist.doctor.memory import Shape, need, parameters
from blade_dist.doctor.report import doctor, examine
from blade_dist.learners.policy import build_model
from blade_dist.settings import Config
from blade_dist.settings.load import load_config


@pytest.mark.parametrize(("torch", "level"), [("2.13.0", Level.OK), ("2.13.0+cpu", Level.OK), ("2.11.0", Level.FAIL)])
def test_versions_go_together_as_the_packages_say(torch: str, level: Level) -> None:
    wants = {"vllm": ["torch==2.13.0", "absent>1", "torch==1; extra == 'old'"], "torch": []}
    (finding,) = findings.together({"vllm": "0.32.0", "torch": torch}, wants)
    assert finding.level is level
    if level is Level.FAIL:
        assert "vllm 0.32.0 wants torch==2.13.0, found 2.11.0" in finding.found


def test_space_is_short_tight_or_there() -> None:
    levels = [findings.space("disk", free, 10e9, "make room").level for free in (9e9, 12e9, 20e9)]
    assert levels == [Level.FAIL, Level.WARN, Level.OK]


def test_what_is_wrong_comes_with_a_mend() -> None:
    lines = [
        findings.shared_memory(64e6),
        findings.token("token", there=False),
        findings.token(None, there=True),
        findings.port(6379, "the Ray head", free=False),
        findings.storage("/x", "read-only"),
        *findings.network({"10.0.0.2": "timed out"}),
        findings.gpus([{"name": "H100", "free": 10e9, "total": 80e9}]),
    ]
    assert all(line.level is not Level.OK and line.mend for line in lines)


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


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    assert look.storage_problem(tmp_path / "a" / "b") == ""
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert look.storage_problem(tmp_path / "file" / "run")


def test_two_ends_are_measured_over_a_port_that_is_held(ray_session: None) -> None:
    here = ray.get_runtime_context().get_node_id()
    rate = look.bandwidth(here, here, "gloo")
    assert isinstance(rate, float), rate
    assert rate > 0


def test_the_doctor_is_content_with_this_machine(
    tiny_config: Config, tiny_data: DataBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "token"))
    console = Console(width=150, record=True)
    assert doctor(tiny_config, console)
    shown = console.export_text()
    assert f"{len(tiny_data.catalog)} items" in shown
    assert "placement" in shown
    assert "fail" not in shown


def test_the_doctor_finds_what_does_not_fit(tiny_config: Config, tiny_data: DataBundle, tmp_path: Path) -> None:
    many = tiny_config.rollout.model_copy(update={"engines": 99})
    config = tiny_config.model_copy(update={"rollout": many})
    wrong = {finding.what: finding for finding in examine(config) if finding.level is Level.FAIL}
    assert "need 100 cores" in wrong["cluster"].found
    absent = load_config(None, [f"run.dir={tmp_path / 'other'}", f"model.path={tmp_path / 'none'}"])
    assert any(finding.what == "model" and finding.level is Level.FAIL for finding in examine(absent))


def test_adapters_need_neither_a_reference_nor_optimizer_states_of_every_weight() -> None:
    shape = Shape(parameters=10**9, hidden=2048, layers=16, vocab=128_000)
    whole, lora = (need(shape, "bfloat16", 0, 1, 0, 0, rank) for rank in (None, 16))
    assert lora.learner < whole.learner / 3
    assert lora.checkpoint < whole.checkpoint / 3
    assert lora.engine == whole.engine
