"""``blade-dist train``: the main job. Starts the actors, runs the learners, leaves ``<target>/policy``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from ray.train import CheckpointConfig
from rich.console import Console

from blade_dist.cluster.placement import Placement, cluster_nodes, place_here, placement_table
from blade_dist.cluster.runtime import beside_driver, ray_runtime
from blade_dist.learners.adapter import check_modules
from blade_dist.posterior.actor import EstimatorActor
from blade_dist.rollouts.pool import EnginePool
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config
from blade_dist.stages.constraints import check_limits, show_limits
from blade_dist.stages.fit import check_ranks, fit
from blade_dist.stages.inputs import Inputs, check_inputs, engines, scorer, tracker
from blade_dist.stages.prior import build_prior, has_prior, prior_stamp, reward_scales, show_prior
from blade_dist.store.files import whole_folder, write_text
from blade_dist.store.fingerprint import fingerprint
from blade_dist.store.run import is_done, mark
from blade_dist.tracking.watch import Onlooker, ProgressPrinter
from blade_dist.training.loop import AlignJob, align
from blade_dist.training.pipeline import VALIDATION, HeldOut, Pipeline
from blade_dist.weights.transports import choose_transport

PIPELINE_CALLS = 64
"""Calls that the pipeline serves at once: every rank waits in one."""


def align_stage(
    config: Config,
    console: Console,
    placement: Placement | None = None,
    watching: Callable[[Callable[[], None]], Onlooker] | None = None,
) -> None:
    """Aligns the reference to ``config.target``; makes a missing prior first; resumes; skipped where done.

    Args:
        config: the settings.
        console: for messages.
        placement: where engines and learners run; None: planned here, on the whole cluster.
        watching: makes the one that is shown the steps, given a call that ends the run after the step that it is at;
            such a run has no policy and goes on when it is started again. None: steps are printed.

    Raises:
        UserError: bad input, before anything starts; a floor or a ceiling that is out of reach, as soon as there is a
            prior. The folder is not yet bound to the settings then.
    """
    inputs, given, config = check_alignment(config), config, config.in_training
    folder = inputs.paths.target(config.target)
    stamp = align_stamp(config, inputs)
    if is_done(folder, stamp, "the aligned model"):
        console.print(f"train: {folder / 'policy'} is already there")
        return
    check_ranks(config, folder)
    if ready := has_prior(config, inputs):
        show_prior(config, inputs, console)
        check_limits(config, inputs, console)
    with ray_runtime(config):
        placement = placement or place_here(config)
        console.print(placement_table(placement, cluster_nodes()))
        validates = config.train.validation_prompts > 0
        start, offload = inputs.paths.reference, _offloads(config, placement)
        with (
            engines(config, inputs.paths, start, placement.engines, offload, config.learner.lora) as pool,
            scorer(config, inputs.paths, "train") as reward,
            scorer(config, inputs.paths, "validation") if validates else nullcontext() as validator,
        ):
            if not ready:
                build_prior(config, inputs, pool, reward, console)
                show_prior(config, inputs, console)
                check_limits(config, inputs, console)
            mark(folder, stamp, done=False)  # from here on the folder belongs to these settings
            write_text(folder / "config.yaml", dump_config(given))
            scales = reward_scales(config, inputs)
            ray.get([actor.rescale.remote(scales) for actor in (reward, validator) if actor is not None])
            watching = watching or (lambda _: ProgressPrinter(config.train.steps, console))
            whole = _run(config, inputs, placement, pool, (reward, validator), folder, console, watching)
    mark(folder, stamp, done=whole)
    if whole and config.reward.constrained:
        show_limits(config, pq.read_table(folder / "metrics.parquet").to_pylist(), console)


def check_alignment(config: Config) -> Inputs:
    """As :func:`check_inputs`, of a run that is to be aligned."""
    inputs = check_inputs(config)
    if config.learner.lora is not None:
        check_modules(inputs.paths.reference, config.learner.lora, config.model)
    return inputs


def _run(
    config: Config,
    inputs: Inputs,
    placement: Placement,
    pool: EnginePool,
    scorers: tuple[Any, Any | None],
    folder: Path,
    console: Console,
    watching: Callable[[Callable[[], None]], Onlooker],
) -> bool:
    """Whether the learners got to their end.

    ``scorers``: handles of the reward actors for training prompts and, or None, for validation prompts.
    """
    paths, run = inputs.paths, config.run.dir.absolute()
    estimator = EstimatorActor.options(**beside_driver()).remote(
        paths.prior.absolute(), prior_stamp(config, inputs), config
    )
    pipeline = Pipeline.options(**beside_driver(), max_concurrency=PIPELINE_CALLS).remote(
        config, inputs.rows, pool, scorers[0], estimator, run, _held_out(config, inputs, scorers[1])
    )
    transport = choose_transport(config.weights.transport, placement.on_gpus, placement.colocated)
    kept = CheckpointConfig(num_to_keep=config.train.keep_checkpoints, **_best(config))
    try:
        with tracker(config, folder) as log:
            if (folder / "learners").exists():
                console.print(f"train: going on from the last checkpoint in {folder / 'learners'}")
            offload = _offloads(config, placement)
            job = AlignJob(config, run, inputs.rows, pool.engines, transport, offload, pipeline, estimator, log)
            onlooker = watching(pipeline.stop.remote)
            result = fit(align, job, config, folder / "learners", placement.learners, kept, onlooker)
        if ray.get(pipeline.stopped.remote()):
            return False
    finally:
        for actor in (pipeline, estimator):
            ray.kill(actor)
    chosen = result.get_best_checkpoint(VALIDATION, "max") if config.train.validation_prompts else result.checkpoint
    if chosen is None:
        raise RuntimeError(f"{folder}: the learners left no checkpoint")
    with chosen.as_directory() as kept_one, whole_folder(folder / "policy") as policy:
        shutil.copytree(Path(kept_one) / "policy", policy, dirs_exist_ok=True)
    return True


def _held_out(config: Config, inputs: Inputs, scorer: Any | None) -> HeldOut | None:
    """The validation prompts; none without somebody who scores them."""
    if scorer is None:
        return None
    rows = np.random.default_rng(config.run.seed).permutation(len(inputs.data.validation))
    return HeldOut(np.sort(rows[: config.train.validation_prompts]), scorer)


def _best(config: Config) -> dict[str, str]:
    """By what Ray Train keeps checkpoints, beside the last one."""
    if not config.train.validation_prompts:
        return {}
    return {"checkpoint_score_attribute": VALIDATION, "checkpoint_score_order": "max"}


def _offloads(config: Config, placement: Placement) -> bool:
    """Whether engines sleep while the learners on their GPUs learn: not where they write lists meanwhile."""
    return placement.colocated and config.rollout.max_staleness == 0


def align_stamp(config: Config, inputs: Inputs) -> str:
    """All that the aligned weights depend on; not where and how fast they are made."""
    how_fast = {"workers", "cpus_per_worker", "tokens_per_microbatch", "shared_prefix"}
    limits = {"at_least", "at_most", "multiplier_lr"} if config.reward.constrained else set()
    late = {"max_staleness"} if config.rollout.max_staleness else set()
    chooses = {"validation_prompts", "patience", "checkpoint_every"} if config.train.validation_prompts else set()
    own = {
        "reward": config.reward.model_dump(include=limits),
        "rollout": config.rollout.model_dump(include={"group_size", "temperature"} | late),
        "learner": config.learner.model_dump(exclude=how_fast),
        "train": config.train.model_dump(include={"steps", "prompts", "prompts_per_step"} | chooses),
    }
    if config.target == "bond":
        own["bond"] = config.bond.model_dump()
    if config.refresh_every is not None:
        own["prior"] = {"refresh_every": config.refresh_every}
    return fingerprint(
        config.target,
        config.run.seed,
        config.model.dtype,
        own,
        config.posterior,
        config.advantage,
        prior_stamp(config, inputs),
    )
