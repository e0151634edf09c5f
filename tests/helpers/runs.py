"""Runs small enough for real-stack tests, and what they are made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from blade_dist.data.bundle import DataBundle
from blade_dist.learners.policy import build_model
from blade_dist.settings import Config
from blade_dist.store.policy import save_policy

TRAIN_PROMPTS = 8
"""Prompts per step of the trained runs."""


def random_policy(config: Config, data: DataBundle, folder: Path, tied: bool, seed: int = 0) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(seed)
    settings = config.model.model_copy(update={"build": config.model.build.model_copy(update={"tied": tied})})
    model = build_model(settings, len(data.codec.tokenizer), data.codec.pad, data.codec.end)
    save_policy(
        folder, model, model.state_dict(), data.codec.tokenizer, codec=data.codec.fingerprint(), policy="sft", step=0
    )
    return folder


def with_settings(config: Config, run: Path, **sections: dict) -> Config:
    """A copy of the tiny run's data and reference in a folder of its own, with some settings changed."""
    shutil.copytree(config.run.dir / "data", run / "data")
    shutil.copytree(config.run.dir / "sft", run / "sft")
    merged = config.model_dump()
    merged["run"]["dir"] = run
    for section, values in sections.items():
        merged[section].update(values)
    return Config.model_validate(merged)
