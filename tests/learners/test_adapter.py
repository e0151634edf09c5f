"""LoRA: only adapters are trained, on any ZeRO stage; without them the policy is the reference."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from blade_dist.errors import UserError
from blade_dist.learners.adapter import add_adapter, check_modules, save_adapter, without_adapter
from blade_dist.learners.policy import build_model
from blade_dist.settings import BuildSettings, LoraSettings, ModelSettings
from blade_dist.weights.gather import full_state, parameter_buckets, trained_state
from tests.helpers.ranks import END, PAD, VOCAB, adapted_steps, free_port, run_ranks

LORA = LoraSettings(rank=8, alpha=24)
MODEL = ModelSettings(build=BuildSettings(hidden_size=64, layers=2, heads=2, kv_heads=1, ffn_size=48, context=64))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("adapted")
    one = run_ranks(1, {"one": dict(zero_stage=0)}, out, free_port(), adapted_steps)
    return one | run_ranks(2, {f"zero{z}": dict(zero_stage=z) for z in (0, 2, 3)}, out, free_port(), adapted_steps)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one", "zero0", "zero2", "zero3"])
def test_only_adapters_learn(steps: dict, case: str) -> None:
    step = steps[case]
    torch.testing.assert_close(step["base"], step["start"], rtol=0, atol=1e-6)
    assert (step["end"] - step["start"]).abs().max() > 0.01
    assert step["kl"][0] == pytest.approx(0, abs=1e-7)
    assert step["kl"][1] > 1e-4
    moved = {name.removeprefix("merged/") for name in step if name.startswith("merged/")}
    assert moved == {name.removeprefix("before/") for name in step if name.startswith("before/")}
    same = {name for name in moved if torch.equal(step[f"merged/{name}"], step[f"before/{name}"])}
    assert moved - same == {name for name in moved if any(f"{part}.weight" in name for part in LORA.modules)}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["zero0", "zero2", "zero3"])
def test_ranks_and_stages_agree(steps: dict, case: str) -> None:
    for name in ("end", "kl", *(name for name in steps["one"] if name.startswith("merged/"))):
        torch.testing.assert_close(steps[case][name], steps["one"][name], rtol=2e-3, atol=2e-4)


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """A checkpoint, and its model with adapters that are not 0."""
    torch.manual_seed(0)
    model = build_model(MODEL, VOCAB, PAD, END)
    model.save_pretrained(tmp_path / "base")
    add_adapter(model, LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return tmp_path / "base", model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(2, 30)[None]).logits


def test_the_merged_weights_are_the_adapted_model(adapted: tuple[Path, torch.nn.Module]) -> None:
    _, model = adapted
    plain = build_model(MODEL, VOCAB, PAD, END).eval()
    missing, unexpected = plain.load_state_dict(full_state(model, 2**20, keep=True), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)
    with without_adapter(model):
        assert (logits(plain) - logits(model)).abs().max() > 0.1


def test_another_program_loads_the_saved_adapter(adapted: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, model = adapted
    save_adapter(tmp_path / "adapter", trained_state(model, 2**20, keep=True), LORA, base)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-6)


def test_what_is_pushed_is_what_is_trained(adapted: tuple[Path, torch.nn.Module]) -> None:
    _, model = adapted
    sent = dict(pair for bucket in parameter_buckets(model, 10_000) for pair in bucket)
    layers = len(LORA.modules) * MODEL.build.layers
    assert len(sent) == 2 * layers
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in sent)
    before = copy.deepcopy(sent)
    with without_adapter(model):
        assert len(dict(model.named_parameters())) > len(sent)
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in model.named_parameters())
    assert all(torch.equal(before[name], sent[name]) for name in sent)


def test_bfloat16_adapters_are_bfloat16() -> None:
    model = build_model(MODEL.model_copy(update={"dtype": "bfloat16"}), VOCAB, PAD, END)
    add_adapter(model, LORA)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_layers_that_are_not_there_are_named(adapted: tuple[Path, torch.nn.Module]) -> None:
    base, _ = adapted
    check_modules(base, LORA, MODEL)
    with pytest.raises(UserError, match=r"learner\.lora\.modules: .* has no linear layer c_attn; it has down_proj, "):
        check_modules(base, LoraSettings(modules=["q_proj", "c_attn"]), MODEL)
