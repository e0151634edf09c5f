"""``blade-dist train``: the main job. Starts the actors, runs the learners, leaves ``<target>/policy``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from ray.train import CheckpointConfig, Result
from rich.console import Console

from blade_dist.cluster.placement import Placement, cluster_nodes, place_here, placement_table
from blade_dist.cluster.runtime import beside_driver, ray_runtime
from blade_dist.posterior.actor import EstimatorActor
from blade_dist.posterior.prior import Prior
from blade_dist.rollouts.pool import EnginePool
from blade_dist.settings import TrainSettings
from blade_dist.settings.load import dump_config
from blade_dist.stages.actors import engines, scorer, tracker
from blade_dist.stages.constraints import check_limits, show_limits
from blade_dist.stages.fit import check_ranks, fit, publish
from blade_dist.stages.opened import OpenedRun
from blade_dist.stages.prior import build_prior, open_prior, show_prior
from blade_dist.store.files import write_text
from blade_dist.store.fingerprint import fingerprint
from blade_dist.store.run import is_done, mark
from blade_dist.tracking.listener import StepListener, StepPrinter
from blade_dist.tracking.say import say
from blade_dist.training.loop import AlignJob, align
from blade_dist.training.pipeline import VALIDATION, HeldOut, Pipeline
from blade_dist.weights.transports import choose_transport

PIPELINE_CALLS = 64
"""Calls that the pipeline serves at once: every rank waits in one."""


def align_stage(
    run: OpenedRun,
    console: Console,
    placement: Placement | None = None,
    listen: Callable[[Callable[[], None]], StepListener] | None = None,
) -> None:
    """Aligns the reference to the run's target; makes a missing prior first; resumes; skipped where done.

    Args:
        run: the run.
        console: for messages.
        placement: where engines and learners run; None: planned here, on the whole cluster.
        listen: makes the one that is shown the steps, given a call that ends the run after the step that it is at;
            such a run has no policy and goes on when it is started again. None: steps are printed.

    Raises:
        UserError: bad input, before anything starts; a floor or a ceiling that is out of reach, as soon as there is a
            prior. The folder is not yet bound to the settings then.
    """
    config = run.config.in_training
    paths = run.paths
    folder, stamp = paths.target(config.target), align_stamp(run)
    if is_done(folder, stamp, "the aligned model"):
        say(console, f"train: {folder / 'policy'} is already there")
        return
    check_ranks(config.learner.workers, folder)
    if (prior := open_prior(run)) is not None:
        _check_prior(run, prior, console)
    with ray_runtime(config):
        placement = placement or place_here(config)
        console.print(placement_table(placement, cluster_nodes()))
        # engines sleep while the learners on their GPUs learn; not where they write lists meanwhile
        offload = placement.colocated and config.rollout.max_staleness == 0
        validates = config.train.validation_prompts > 0
        with (
            engines(config, paths, paths.reference, placement.engines, offload, config.learner.lora) as pool,
            scorer(config, paths.data, "train") as reward,
            scorer(config, paths.data, "validation") if validates else nullcontext() as validator,
        ):
            if prior is None:
                prior = build_prior(run, pool, reward, console)
                _check_prior(run, prior, console)
            mark(folder, stamp, done=False)  # from here on the folder belongs to these settings
            write_text(folder / "config.yaml", dump_config(run.config))
            ray.get([actor.rescale.remote(prior.scales) for actor in (reward, validator) if actor is not None])
            if (folder / "learners").exists():
                say(console, f"train: going on from the last checkpoint in {folder / 'learners'}")
            listen = listen or (lambda _: StepPrinter(config.train.steps, console))
            kept = _kept(config.train)
            result = _fit(run, placement, pool, (reward, validator), offload, kept, listen)
    if result is None:
        return
    publish(result, kept, folder / "policy")
    mark(folder, stamp, done=True)
    if config.reward.constrained:
        show_limits(config.reward, pq.read_table(folder / "metrics.parquet").to_pylist(), console)


def _check_prior(run: OpenedRun, prior: Prior, console: Console) -> None:
    """Says what the prior is like; whether there is something to learn, and floors and ceilings are in reach."""
    show_prior(prior, console)
    check_limits(run, prior, console)


def _fit(
    run: OpenedRun,
    placement: Placement,
    pool: EnginePool,
    scorers: tuple[Any, Any | None],
    offload: bool,
    kept: CheckpointConfig,
    listen: Callable[[Callable[[], None]], StepListener],
) -> Result | None:
    """What the learners left at their end; None where the run was stopped before it.

    ``scorers``: handles of the reward actors for training prompts and, or None, for validation prompts.
    """
    config = run.config.in_training
    root, folder = run.paths.root.absolute(), run.paths.target(config.target)
    estimator = EstimatorActor.options(**beside_driver()).remote(run.paths.prior.absolute(), run.prior_stamp, config)
    pipeline = Pipeline.options(**beside_driver(), max_concurrency=PIPELINE_CALLS).remote(
        config, run.rows, pool, scorers[0], estimator, root, _held_out(run, scorers[1])
    )
    transport = choose_transport(config.weights.transport, placement.on_gpus, placement.colocated)
    try:
        with tracker(folder, config.tracking.tensorboard) as log:
            job = AlignJob(config, root, run.rows, pool.engines, transport, offload, pipeline, estimator, log)
            listener = listen(pipeline.stop.remote)
            result = fit(align, job, config, folder / "learners", placement.learners, kept, listener)
        return None if ray.get(pipeline.stopped.remote()) else result
    finally:
        for actor in (pipeline, estimator):
            ray.kill(actor)


def _held_out(run: OpenedRun, scorer: Any | None) -> HeldOut | None:
    """The validation prompts; none without somebody who scores them."""
    if scorer is None:
        return None
    rows = np.random.default_rng(run.config.run.seed).permutation(len(run.data.validation))
    return HeldOut(np.sort(rows[: run.config.train.validation_prompts]), scorer)


def _kept(train: TrainSettings) -> CheckpointConfig:
    """Which checkpoints Ray Train keeps: the best ones where there is validation, and always the last one."""
    if not train.validation_prompts:
        return CheckpointConfig(num_to_keep=train.keep_checkpoints)
    return CheckpointConfig(train.keep_checkpoints, checkpoint_score_attribute=VALIDATION, checkpoint_score_order="max")


def align_stamp(run: OpenedRun) -> str:
    """All that the aligned weights depend on; not where and how fast they are made."""
    config = run.config
    how_fast = {"workers", "cpus_per_worker", "tokens_per_microbatch", "shared_prefix"}
    limits = {"at_least", "at_most", "multiplier_lr"} if config.reward.constrained else set()
    late = {"max_staleness"} if config.rollout.max_staleness else set()
    chooses = {"validation_prompts", "patience", "checkpoint_every"} if config.train.validation_prompts else set()
    method = {
        "reward": config.reward.model_dump(include=limits),
        "rollout": config.rollout.model_dump(include={"group_size", "temperature"} | late),
        "learner": config.learner.model_dump(exclude=how_fast),
        "train": config.train.model_dump(include={"steps", "prompts", "prompts_per_step"} | chooses),
    }
    if config.target == "bond":
        method["bond"] = config.bond.model_dump()
    if config.refresh_every is not None:
        method["prior"] = {"refresh_every": config.refresh_every}
    return fingerprint(
        config.target,
        config.run.seed,
        config.model.dtype,
        method,
        config.posterior,
        config.advantage,
        run.prior_stamp,
    )
