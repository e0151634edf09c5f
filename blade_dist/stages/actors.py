"""Actors that several stages start; each is stopped at the end of its block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from blade_dist.catalog.codec import Codec
from blade_dist.cluster.placement import Role
from blade_dist.cluster.runtime import RETRIES, beside_driver
from blade_dist.rewards.actor import RewardActor, RewardHandle
from blade_dist.rollouts.pool import EnginePool, RunningPool
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.settings import Config, LoraSettings
from blade_dist.stages.watch import Watch
from blade_dist.store.context import context_length
from blade_dist.store.run import RunPaths
from blade_dist.tracking.actor import TrackerActor
from blade_dist.tracking.alarms import Alarms
from blade_dist.tracking.bar import waiting


@contextmanager
def engines(
    config: Config,
    paths: RunPaths,
    checkpoint: Path,
    roles: list[Role],
    sleep: bool = False,
    lora: LoraSettings | None = None,
    console: Console | None = None,
) -> Iterator[EnginePool]:
    """Running engines that serve ``checkpoint``, one per role; ``sleep``: they can (on a GPU); ``lora``: of pushes.

    ``console``: says meanwhile that they start; None where a bar does.
    """
    spec = EngineSpec.of(config, checkpoint, paths, _context(config, Codec.load(paths.codec), checkpoint), sleep, lora)
    with ExitStack() as stack:
        with nullcontext() if console is None else waiting(console, f"starting {len(roles)} engine(s)"):
            pool = stack.enter_context(RunningPool(config, spec, roles))
        yield pool


def _context(config: Config, codec: Codec, checkpoint: Path) -> int:
    """What the longest prompt and the longest list need: all that the model has room for may be more than memory."""
    needed = codec.max_prompt_tokens(config.data.max_history) + codec.max_list_tokens(config.lists.k)
    return min(needed, context_length(checkpoint))


@contextmanager
def scorer(config: Config, data: Path, split: str, ranker: Path | None = None) -> Iterator[RewardHandle]:
    """A running reward actor for one split of ``data``, the data stage's folder.

    ``ranker``: the table of these prompts, where a metric reads one.
    """
    # what it is asked when it dies is asked again; a user's function that ends the process every time ends the run
    options = beside_driver() | {"max_task_retries": RETRIES}
    incidents, began = RunPaths(config.run.dir.absolute()).incidents, time.time()
    table = None if ranker is None else ranker.absolute()
    actor = RewardActor.options(**options).remote(
        data.absolute(), split, config.reward, config.lists.k, incidents, table
    )
    try:
        with Watch(f"the reward actor of {split}", actor, config, config.reward.timeout_s):
            yield RewardHandle(actor, split, incidents, began)
    finally:
        ray.kill(actor)


@contextmanager
def tracker(folder: Path, config: Config, alarms: Callable[[], Alarms] | None = None) -> Iterator[Any]:
    """A running step log below ``folder``; what it holds is written at the end.

    ``alarms``: see :class:`~blade_dist.tracking.step_log.StepLog`.
    """
    events = (folder / "tensorboard").absolute() if config.tracking.tensorboard else None
    options = beside_driver() | {"max_task_retries": RETRIES}
    actor = TrackerActor.options(**options).remote((folder / "metrics.parquet").absolute(), events, alarms)
    try:
        with Watch("the step log", actor, config):
            yield actor
    finally:
        ray.get(actor.close.remote())
        ray.kill(actor)
