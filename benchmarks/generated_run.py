"""A run of the real trainer on a generated catalog of any size: settings, data, a reference with random weights."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.workload import ITEM_TOKENS, Workload
from blade_dist.data.bundle import load_data
from blade_dist.learners.policy import build_model
from blade_dist.settings import Config
from blade_dist.stages.data import data_stage
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths


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
                "interactions": history + 3 * work.k + 20,
                "popularity_skew": 0.0,
                "taste_concentration": 10.0,
            },
            "k_core": 1,
            "targets": work.k,
            "min_history": history,
            "max_history": history,
            "windows": 20,
        },
        "codec": {"kind": "semantic_id", "levels": 2, "codes": math.isqrt(work.items), "vocab_size": 300},
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
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # a large model's random weights are made there
        model = build_model(config.model, max(work.vocab, data.codec.vocabulary), data.codec.pad, data.codec.end)
    model.cpu()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    save_policy(
        RunPaths(config.run.dir).reference,
        model,
        model.state_dict(),
        data.codec.tokenizer,
        codec=data.codec.fingerprint(),
        policy="sft",
        step=0,
    )
    return sum(parameter.numel() for parameter in model.parameters())
