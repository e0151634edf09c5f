"""A run of the real trainer on a generated catalog of any size: settings, data, a reference with random weights."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from blade_dist.artifacts import RunPaths
from blade_dist.checkpoint import save_policy
from blade_dist.data.bundle import load_data
from blade_dist.learners.policy import build_model
from blade_dist.settings import Config
from blade_dist.stages.data import data_stage

ITEM_TOKENS = 3
"""Two codes and the separator: a semantic ID of one level, and the code that tells its items apart."""


@dataclass(frozen=True)
class Workload:
    """What one step does, and with what."""

    hidden: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    ffn: int = 480
    vocab: int = 2048
    dtype: str = "float32"
    prompts: int = 8
    prompt_tokens: int = 250
    group: int = 16
    k: int = 5
    items: int = 10_000
    zero_stage: int = 0
    engines: int = 1
    learners: int = 1
    max_staleness: int = 0
    constrain: str = "catalog"
    shared_prefix: bool = True
    microbatch_tokens: int = 16384
    lr: float = 1e-4
    kl_coef: float = 1 / 15
    lora_rank: int = 0

    @property
    def list_tokens(self) -> int:
        """Tokens of a list, its end included."""
        return self.k * ITEM_TOKENS + 1


LLAMA_1B = Workload(
    hidden=2048,
    layers=16,
    heads=32,
    kv_heads=8,
    ffn=8192,
    vocab=128_256,
    dtype="bfloat16",
    prompts=512,
    prompt_tokens=300,
    k=13,
    microbatch_tokens=16_384,
)
"""The shape of Llama-3.2-1B, with lists of 40 tokens."""

PRESETS = {
    "recsys-cpu": Workload(),
    "recsys-gpu": replace(LLAMA_1B, prompts=256, prompt_tokens=1000, k=10, items=100_000, microbatch_tokens=65_536),
}
"""``recsys-cpu``: a Llama of 2.7 M parameters that two cores can train; ``recsys-gpu``: the shape of Llama-3.2-1B."""


def make_config(work: Workload, run: Path, steps: int) -> Config:
    """Settings of ``steps`` steps; every prompt has as many history items, about ``prompt_tokens`` tokens."""
    history = max(1, (work.prompt_tokens - 1) // ITEM_TOKENS)
    cores = len(os.sched_getaffinity(0))
    build = {"hidden_size": work.hidden, "layers": work.layers, "heads": work.heads, "kv_heads": work.kv_heads}
    tree: dict[str, Any] = {
        "run": {"dir": str(run)},
        "data": {
            "source": "synthetic",
            "synthetic": {
                "users": max(200, work.items // 25),
                "items": work.items,
                "interactions": history + 30,
                "popularity_skew": 0.0,
                "taste_concentration": 10.0,
            },
            "k_core": 1,
            "targets": work.k,
            "min_history": history,
            "max_history": history,
            "windows": 2,
        },
        "codec": {"kind": "semantic_id", "levels": 1, "codes": math.isqrt(work.items), "vocab_size": 300},
        "lists": {"k": work.k, "constrain": work.constrain},
        "model": {
            "dtype": work.dtype,
            "build": {**build, "ffn_size": work.ffn, "context": work.prompt_tokens + 2 * work.list_tokens + 64},
        },
        "prior": {"size": 4},
        "rollout": {
            "engines": work.engines,
            "group_size": work.group,
            "max_staleness": work.max_staleness,
            "max_num_seqs": min(1024, max(256, work.prompts * work.group)),
            "cpus_per_engine": max(1, cores // work.engines),
        },
        "reward": {"weights": {f"ndcg@{work.k}": 1.0, f"ild@{work.k}": 0.3, f"mgu@{work.k}": -0.5}},
        "evaluate": {"metrics": [f"ndcg@{work.k}"]},
        "learner": {
            "workers": work.learners,
            "zero_stage": work.zero_stage,
            "lr": work.lr,
            "schedule": "constant",
            "kl_coef": work.kl_coef,
            "tokens_per_microbatch": work.microbatch_tokens,
            "shared_prefix": work.shared_prefix,
            "lora": {"rank": work.lora_rank} if work.lora_rank else None,
            "cpus_per_worker": max(1, cores // work.learners),
        },
        "train": {
            "steps": steps,
            "prompts": steps * work.prompts,
            "prompts_per_step": work.prompts,
            "checkpoint_every": steps,
        },
        "tracking": {"tensorboard": False},
    }
    return Config.model_validate(tree)


def prepare(config: Config, work: Workload) -> int:
    """Makes the data and a reference with random weights; returns its number of parameters."""
    data_stage(config, Console(quiet=True))
    data = load_data(config.run.dir)
    torch.manual_seed(0)
    model = build_model(config.model, max(work.vocab, len(data.codec.tokenizer)), data.codec.pad, data.codec.end)
    save_policy(RunPaths(config.run.dir).reference, model, model.state_dict(), data.codec, "sft", 0)
    return sum(parameter.numel() for parameter in model.parameters())
