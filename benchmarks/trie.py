"""The trie of legal lists: how long it takes to build and to load, and what constrained sampling costs vLLM."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.report import show, write_result
from blade_dist.batches import Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import load_trie, write_trie
from blade_dist.catalog.tokenizer import special_token, train_tokenizer
from blade_dist.catalog.trie import build_trie
from blade_dist.learners.policy import build_model
from blade_dist.rollouts.engine import Engine
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.rollouts.spec import EngineSpec, engine_environment
from blade_dist.settings import Config
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths

MODEL = {"build": {"hidden_size": 192, "layers": 6, "heads": 6, "kv_heads": 3, "ffn_size": 512}}
RESERVED = 300
"""Tokens of the tokenizer that no item uses."""
SMALL = 10_000
"""Items of the smaller catalog that generation is also measured with."""
GOALS = {"build_seconds": 60, "megabytes": 400, "load_seconds": 1, "generation_ratio": 0.9}


@dataclass(frozen=True)
class Workload:
    """What is generated: ``prompts`` x ``group`` lists of ``k`` items of ``item_tokens`` tokens."""

    item_tokens: int
    vocab: int
    prompts: int
    group: int
    k: int
    prompt_tokens: int
    repeats: int
    model: dict[str, Any] = field(default_factory=lambda: dict(MODEL))
    """Settings of the model; its vocabulary is the catalog's."""


def make_codec(items: int, work: Workload, seed: int = 0) -> Codec:
    """Random item tokens (distinct with near certainty; else building the trie says so)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(RESERVED, work.vocab, items * work.item_tokens, dtype=np.int32)
    tokenizer = train_tokenizer(["item"], RESERVED - 10)
    marks = [special_token(tokenizer, text) for text in ("<sep>", "<eos>", "<pad>")]
    nothing = np.zeros(0, np.int32)
    rows = Ragged(tokens, np.arange(items + 1) * work.item_tokens)
    return Codec("semantic_id", tokenizer, rows, *marks, prefix=nothing, suffix=nothing)


def measure_trie(codec: Codec, folder: Path) -> dict[str, float]:
    """Seconds to build, to write and to load; bytes."""
    began = time.perf_counter()
    trie = build_trie(codec.item_blocks)
    built = time.perf_counter() - began
    write_trie(codec, folder)
    began = time.perf_counter()
    loaded = load_trie(codec, folder)
    assert len(loaded) == len(codec.item_tokens)
    seconds = time.perf_counter() - began
    return {
        "build_seconds": built,
        "megabytes": trie.nbytes / 1e6,
        "load_seconds": seconds,
        "nodes": len(trie.node_low),
        "edges": len(trie.edge_key),
    }


def measure_generation(codec: Codec, work: Workload, run: Path) -> dict[str, float]:
    """Lists per second of one engine, unconstrained and constrained; the same number of tokens in both."""
    config = Config.model_validate(
        {
            "run": {"dir": str(run)},
            "data": {"targets": work.k},
            "lists": {"k": work.k},
            "model": work.model,
            "rollout": {
                "max_num_seqs": max(256, work.prompts * work.group),
                "cpus_per_engine": len(os.sched_getaffinity(0)),
            },
        }
    )
    os.environ.update(engine_environment(config, gpu=torch.cuda.is_available()))
    paths = RunPaths(run)
    codec.save(paths.codec)
    write_trie(codec, paths.trie)
    model = build_model(config.model, work.vocab, codec.pad, codec.end)
    save_policy(
        run / "model", model, model.state_dict(), codec.tokenizer, codec=codec.fingerprint(), policy="sft", step=0
    )
    context = work.prompt_tokens + work.k * (work.item_tokens + 1) + 64
    spec = EngineSpec.of(config, run / "model", paths, context)
    return generation_speed(start_engines(spec), make_request(codec, work), work.repeats)


def start_engines(spec: EngineSpec) -> dict[str, Engine]:
    """By ``lists.constrain``: an engine without the legality of lists, and one with it."""
    lists = {name: spec.lists.model_copy(update={"constrain": name}) for name in ("none", "catalog")}
    return {name: Engine(replace(spec, lists=of)) for name, of in lists.items()}


def generation_speed(engines: dict[str, Engine], request: RolloutRequest, repeats: int) -> dict[str, float]:
    """Tokens per second of what :func:`start_engines` gives, each the median of so many turns."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    tokens: dict[str, int] = {}
    for _ in range(repeats + 1):  # turn about, so that a busy moment meets both; the first turn warms up
        for name, engine in engines.items():
            began = time.perf_counter()
            samples = engine.sample(request)
            seconds[name].append(time.perf_counter() - began)
            tokens[name] = sum(len(sample.token_ids) for sample in samples)
    speed = {name: tokens[name] / statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "unconstrained_tokens_per_second": speed["none"],
        "constrained_tokens_per_second": speed["catalog"],
        "generation_ratio": speed["catalog"] / speed["none"],
    }


def make_request(codec: Codec, work: Workload) -> RolloutRequest:
    """Random prompts and excluded items."""
    rng = np.random.default_rng(1)
    items = len(codec.item_tokens)
    prompt = [rng.integers(RESERVED, work.vocab, work.prompt_tokens) for _ in range(work.prompts)]
    excluded = [rng.choice(items, 20, replace=False) for _ in range(work.prompts)]
    index = np.arange(work.prompts)
    return RolloutRequest(index, Ragged.of(prompt), Ragged.of(excluded), index * 1000, work.group, 1.0)


def main(
    items: Annotated[int, typer.Option(help="Items of the catalog.")] = 1_000_000,
    item_tokens: Annotated[int, typer.Option(help="Tokens per item.")] = 12,
    vocab: Annotated[int, typer.Option(help="Vocabulary.")] = 32_000,
    prompts: Annotated[int, typer.Option(help="Prompts that are generated for.")] = 8,
    group: Annotated[int, typer.Option(help="Lists per prompt.")] = 16,
    k: Annotated[int, typer.Option(help="Items per list.")] = 5,
    repeats: Annotated[int, typer.Option(help="Measured turns; the median counts.")] = 5,
    generate: Annotated[bool, typer.Option(help="Whether engines are started and generation is measured.")] = True,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Builds, stores and maps a trie, and compares constrained with unconstrained generation.

    Examples:

      python -m benchmarks.trie --items 1000000 --json trie.json

      python -m benchmarks.trie --items 100000 --no-generate
    """
    work = Workload(item_tokens, vocab, prompts, group, k, 100, repeats)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for count in dict.fromkeys((min(SMALL, items), items)):
            codec = make_codec(count, work)
            results[str(count)] = measure_trie(codec, Path(name) / f"trie{count}")
            if generate:
                results[str(count)] |= measure_generation(codec, work, Path(name) / f"run{count}")
    for count, numbers in results.items():
        show(f"{int(count):,} items", numbers, GOALS)
    write_result(json, "trie", vars(work) | {"items": items}, {"by_items": results, "goals": GOALS})


if __name__ == "__main__":
    typer.run(main)
