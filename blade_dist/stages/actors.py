"""Actors that several stages start; each is stopped at the end of its block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from blade_dist.cluster.placement import Role
from blade_dist.cluster.runtime import beside_driver
from blade_dist.rewards.actor import RewardActor
from blade_dist.rollouts.pool import EnginePool, RunningPool
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.settings import Config, LoraSettings
from blade_dist.store.policy import context_length
from blade_dist.store.run import RunPaths
from blade_dist.tracking.actor import TrackerActor


@contextmanager
def engines(
    config: Config,
    paths: RunPaths,
    checkpoint: Path,
    roles: list[Role],
    sleep: bool = False,
    lora: LoraSettings | None = None,
) -> Iterator[EnginePool]:
    """Running engines that serve ``checkpoint``, one per role; ``sleep``: they can (on a GPU); ``lora``: of pushes."""
    spec = EngineSpec.of(config, checkpoint, paths, context_length(checkpoint), sleep, lora)
    with RunningPool(config, spec, roles) as pool:
        yield pool


@contextmanager
def scorer(config: Config, data: Path, split: str) -> Iterator[Any]:
    """A running reward actor for one split of ``data``, the data stage's folder."""
    actor = RewardActor.options(**beside_driver()).remote(data.absolute(), split, config.reward, config.lists.k)
    try:
        yield actor
    finally:
        ray.kill(actor)


@contextmanager
def tracker(folder: Path, tensorboard: bool) -> Iterator[Any]:
    """A running step log below ``folder``; what it holds is written at the end."""
    events = (folder / "tensorboard").absolute() if tensorboard else None
    actor = TrackerActor.options(**beside_driver()).remote((folder / "metrics.parquet").absolute(), events)
    try:
        yield actor
    finally:
        ray.get(actor.close.remote())
        ray.kill(actor)
