"""Base checkpoints of other architectures, whole or not: a row of doctor's table, and never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from blade_dist.catalog.codec import Codec
from blade_dist.catalog.tokenizer import load_tokenizer, train_tokenizer
from blade_dist.data.prepare import prepare_data
from blade_dist.doctor.findings import Finding, Level
from blade_dist.doctor.report import estimate, examine
from blade_dist.errors import UserError
from blade_dist.learners.generation import generation_problem
from blade_dist.learners.policy import load_model
from blade_dist.rollouts.refusal import refusal
from blade_dist.settings.load import load_config
from blade_dist.stages import actors, sft
from blade_dist.store.context import NO_LIMIT, context_length, context_setting
from blade_dist.store.files import write_json
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths
from tests.cases.wild import Wild

GPT2 = GPT2Config(vocab_size=96, n_positions=48, n_embd=32, n_layer=2, n_head=1)
TEXT = Gemma3TextConfig(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1)


def gpt2(folder: Path) -> None:
    GPT2.save_pretrained(folder)


def gemma3(folder: Path) -> None:
    Gemma3Config(text_config=TEXT.to_dict()).save_pretrained(folder)


def unknown(folder: Path) -> None:
    write_json(folder / "config.json", {"model_type": "zorp"})


def damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{")


def verdict(folder: Path) -> Finding:
    """What doctor says of the model, before it looks at a cluster."""
    config = load_config(None, [f"model.path={folder}", f"run.dir={folder.parent / 'run'}"])
    return next(finding for finding in examine(config) if finding.what == "model")


@pytest.mark.parametrize(
    ("made", "words"),
    [(gpt2, "safetensors"), (gemma3, "safetensors"), (unknown, "zorp"), (damaged, "valid JSON")],
)
def test_a_checkpoint_that_is_not_whole_is_a_row_of_the_table(
    tmp_path: Path, made: Callable[[Path], None], words: str
) -> None:
    made(tmp_path / "base")
    found = verdict(tmp_path / "base")
    assert (found.level, bool(found.fix)) == (Level.FAIL, True)
    assert words in found.result
    assert "\n" not in found.result


@pytest.mark.parametrize("weights", [b"\x10" + bytes(7) + b"{}", bytes(8), b""])
def test_weights_that_are_not_whole_are_a_row_of_the_table(tmp_path: Path, weights: bytes) -> None:
    gpt2(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(weights)
    found = verdict(tmp_path / "base")
    assert found.level == Level.FAIL
    assert "its weights can't be read: " in found.result
    assert "fetch or save them again" in found.result


@pytest.mark.parametrize("text", ["null", "[]", "{}"])
def test_a_configuration_that_is_none_is_a_row_of_the_table(tmp_path: Path, text: str) -> None:
    gpt2(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(text)
    (tmp_path / "base" / "model.safetensors").write_bytes(bytes(8))
    assert verdict(tmp_path / "base").level == Level.FAIL


def test_any_architecture_is_measured(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2)
    model.save_pretrained(tmp_path / "base")
    assert verdict(tmp_path / "base").result.endswith("GPT2LMHeadModel, 0.0 M parameters")
    config = load_config(None, [f"model.path={tmp_path / 'base'}", "model.dtype=float32"])
    assert estimate(config).checkpoint == sum(part.numel() for part in model.parameters()) * (4 + 4 + 8)


def test_every_architecture_s_own_name_of_its_context_counts(tmp_path: Path) -> None:
    for made in (gpt2, gemma3, unknown):
        made(tmp_path / made.__name__)
    assert context_setting(tmp_path / "gpt2") == ("n_positions", 48)
    assert context_length(tmp_path / "gemma3") == TEXT.max_position_embeddings
    assert context_length(tmp_path / "unknown") == NO_LIMIT


def test_what_an_engine_refuses_when_it_starts_is_one_line() -> None:
    head = "The actor died because of an error raised in its creation task, Engine.__init__()\n  File x, line 1\n"
    assert refusal(f"{head}blade_dist.errors.UserError: lists.exclude: no item 'x'") == "lists.exclude: no item 'x'"
    vllm = "ValueError: To serve at least one request, 1.14 GiB KV cache is needed. Try increasing `gpu_memory`\n"
    assert (refusal(head + vllm) or "").startswith(
        "rollout.kv_cache_gb (on a GPU rollout.gpu_memory_utilization): too "
    )
    assert (refusal(head + vllm) or "").endswith(
        "vLLM says: To serve at least one request, 1.14 GiB KV cache is needed."
    )
    assert refusal(f"{head}KeyError: 'x'") is None


METRICS = ("reward.weights={ndcg@3: 1.0}", "evaluate.metrics=[ndcg@3]")


def base(folder: Path, positions: int) -> Path:
    """A whole checkpoint with a tokenizer."""
    shape = GPT2Config(vocab_size=300, n_positions=positions, n_embd=32, n_layer=1, n_head=1)
    GPT2LMHeadModel(shape).save_pretrained(folder)
    train_tokenizer(["Title 1"], 300).save_pretrained(folder)
    return folder


def test_a_context_too_short_for_a_prompt_and_its_list_is_refused(wild: Wild) -> None:
    short = base(wild.folder / "gpt2", 16)
    with pytest.raises(UserError, match=r"need a context of \d+, and n_positions of .*gpt2/config\.json is 16"):
        prepare_data(wild.config(f"model.path={short}", *METRICS))


def test_a_relative_path_leads_ranks_to_the_model_too(wild: Wild, monkeypatch: pytest.MonkeyPatch) -> None:
    """They work in a folder of their own."""
    monkeypatch.chdir(wild.folder)
    config = wild.config(f"model.path={base(Path('gpt2'), 256)}", *METRICS)
    prepare_data(config)
    jobs: list[Any] = []
    monkeypatch.setattr(sft, "fit", lambda _, job, *__: jobs.append(job))
    monkeypatch.setattr(sft, "publish", lambda *_: None)
    monkeypatch.setattr(sft, "place_here", lambda *_, **__: SimpleNamespace(learners=[]))
    log = SimpleNamespace(ask_to_end=SimpleNamespace(remote=None))
    monkeypatch.setattr(sft, "tracker", lambda *_: nullcontext(log))
    sft.sft_stage(config, Console(quiet=True))
    assert [job.config.model.path for job in jobs] == [wild.folder / "gpt2"]


def test_an_engine_has_room_for_prompts_and_lists_not_for_all_that_the_model_could_read(
    wild: Wild, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = wild.config("model.build.context=300000", *METRICS)
    prepare_data(config)
    asked: list[int] = []
    monkeypatch.setattr(actors, "RunningPool", lambda _, spec, __: nullcontext(asked.append(spec.context)))
    paths = RunPaths(config.run.dir)
    for limit in (300_000, 10):
        write_json(wild.folder / "base" / "config.json", {"max_position_embeddings": limit})
        with actors.engines(config, paths, wild.folder / "base", []):
            pass
    codec = Codec.load(paths.codec)
    needed = codec.max_prompt_tokens(config.data.max_history) + codec.max_list_tokens(config.lists.k)
    assert asked == [needed, 10]
    assert needed < 1000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"do_sample": False, "temperature": 0.9}, "temperature"),
        ({"do_sample": False, "top_p": 0.6, "eos_token_id": 2}, "top_p"),
        ({"early_stopping": "sometimes"}, "early_stopping"),
    ],
)
def test_an_invalid_generation_config_is_said_and_left_out(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    folder = base(tmp_path / "gpt2", 16)
    assert generation_problem(folder) is None
    write_json(folder / "generation_config.json", given)
    assert words in (generation_problem(folder) or "")
    config = load_config(None, [f"model.path={folder}"])
    model = load_model(folder, config.model)
    assert model.generation_config.eos_token_id == model.config.eos_token_id
    tokenizer = load_tokenizer(folder)
    save_policy(tmp_path / "saved", model, model.state_dict(), tokenizer, codec="x", policy="sft", step=1)
    assert generation_problem(tmp_path / "saved") is None


@pytest.mark.parametrize("text", ['{"version": "1.0", "model": {"type": "Zorp"}}', "{", "{}"])
def test_a_tokenizer_that_can_t_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    folder = base(tmp_path / "gpt2", 16)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"gpt2: no tokenizer could be read \(\w+: .+\); save or fetch it again"):
        load_tokenizer(folder)


@pytest.mark.parametrize("wrong", [{"vocab_size": "300"}, {"n_layer": None}, {"n_positions": "many"}])
def test_a_value_of_another_type_is_said_of_the_configuration(wild: Wild, wrong: dict[str, Any]) -> None:
    folder = base(wild.folder / "gpt2", 256)
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | wrong)
    assert next(iter(wrong)) in verdict(folder).result
    with pytest.raises(UserError, match=rf"gpt2/config\.json: .*'{next(iter(wrong))}'"):
        load_tokenizer(folder)


def test_weights_that_a_checkpoint_lacks_are_not_made_at_random(tmp_path: Path) -> None:
    folder = base(tmp_path / "gpt2", 256)
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 of its weights are missing, as transformer\.h\.0\.mlp\.c_fc"):
        load_model(folder, load_config(None).model)


def test_code_beside_a_model_is_not_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base(tmp_path / "gpt2", 256)
    own = {"auto_map": {"AutoConfig": "configuration_x.XConfig"}, "model_type": "x"}
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | own)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    assert len(load_tokenizer(folder)) > 0
