"""``blade-dist train``: the main job. Starts the actors, runs the learners, leaves ``<target>/policy``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from ray.train import CheckpointConfig, Result
from rich.console import Console

from blade_dist.cluster.placement import Placement, cluster_nodes, place_here, placement_table
from blade_dist.cluster.runtime import beside_driver, ray_runtime
from blade_dist.errors import DivergedError, RoleLostError, origin
from blade_dist.evaluation.bootstrap import mean_interval
from blade_dist.learners.objective import learning_rate
from blade_dist.posterior.actor import EstimatorActor
from blade_dist.posterior.prior import Prior
from blade_dist.rewards.actor import RewardHandle
from blade_dist.rollouts.pool import EnginePool
from blade_dist.settings import Config, TrainSettings
from blade_dist.settings.load import dump_config
from blade_dist.stages.actors import engines, tracker
from blade_dist.stages.chosen import validation_rows
from blade_dist.stages.constraints import check_limits, show_limits
from blade_dist.stages.fit import fit, publish
from blade_dist.stages.opened import OpenedRun
from blade_dist.stages.prior import build_prior, open_prior, show_prior
from blade_dist.stages.ranker_tables import scorer_of
from blade_dist.stages.resume import find_start, layout_of
from blade_dist.stages.watch import watched
from blade_dist.store.checkpoints import LEARNERS, saved_step
from blade_dist.store.files import write_text
from blade_dist.store.lock import held
from blade_dist.store.stage import begin, is_done, mark, noted
from blade_dist.tracking.alarms import COLUMN, Alarms
from blade_dist.tracking.bar import RAY, waiting
from blade_dist.tracking.listener import StepListener, StepPrinter, Warner
from blade_dist.tracking.parting import Parting
from blade_dist.tracking.say import say, say_end, show_table
from blade_dist.tracking.step_log import drop_rows_from
from blade_dist.training.loop import AlignJob, align
from blade_dist.training.pipeline import VALIDATION, HeldOut, Pipeline, Roles
from blade_dist.weights.transports import choose_transport

PIPELINE_CALLS = 64
"""Calls that the pipeline serves at once: every rank waits in one."""

TABLE_WIDTH = 80

ENDS = 10
"""Steps at the beginning and at the end whose rewards are compared."""

RESAMPLES = 2000
"""Of these steps, for the interval of their mean."""


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
        UserError: bad input or another process that works in the folder, before anything starts; a floor or a ceiling
            that is out of reach, as soon as there is a prior. The folder is not yet bound to the settings then.
    """
    config = run.config.in_training
    folder = run.paths.target(config.target)
    if is_aligned(run, folder, "the aligned model"):
        say_end(console, "train", f"{folder / 'policy'} is already there", _progress(folder))
        return
    with held(folder, f"blade-dist train, target {config.target}", "run.dir"):
        _align(run, console, placement, listen)


def _align(
    run: OpenedRun,
    console: Console,
    placement: Placement | None,
    listen: Callable[[Callable[[], None]], StepListener] | None,
) -> None:
    config, paths = run.config.in_training, run.paths
    folder, stamp = paths.target(config.target), align_stamp(run)
    kept = _kept(config.train)
    start = find_start(folder, layout_of(config.learner), kept)
    for line in start.lines:
        say(console, f"train: {line}")
    if (prior := open_prior(run)) is not None:
        _check_prior(run, prior, console)
    with ray_runtime(config, waiting(console, RAY)):
        placement = placement or place_here(config)
        console.print(placement_table(placement, cluster_nodes()))
        # engines sleep while the learners on their GPUs learn; not where they write lists meanwhile
        offload = placement.colocated and config.rollout.max_staleness == 0
        held_out = validation_rows(config, len(run.data.validation))
        with (
            engines(config, paths, paths.reference, placement.engines, offload, config.learner.lora, console) as pool,
            scorer_of(run, pool, "train", run.rows, console) as reward,
            scorer_of(run, pool, "validation", held_out, console) if len(held_out) else nullcontext() as validator,
        ):
            if prior is None:
                prior = build_prior(run, pool, reward, console)
                _check_prior(run, prior, console)
            steps_there = noted(folder).get("train", {}).get("steps")
            anew = begin(folder, stamp, _growing(config, folder))  # from here on the folder belongs to these settings
            for line in filter(None, (anew, _going_on(config, folder, steps_there))):
                say(console, f"train: {line}")
            drop_rows_from(folder / "metrics.parquet", saved_step(folder / LEARNERS))
            write_text(folder / "config.yaml", dump_config(run.config))
            scorers = reward.rescaled(prior.scales), None if validator is None else validator.rescaled(prior.scales)
            parting = Parting(*_reference_reward(prior))
            warners: list[Warner] = [_alarms(config)().new, partial(_parted, config.train, parting)]
            listen = listen or (lambda _: StepPrinter(config.train.steps, console, "train", warners))
            try:
                result = _fit(run, placement, pool, scorers, offload, kept, listen)
            except DivergedError:
                mark(folder, stamp, done=False, diverged=True)
                raise
    if result is None:
        return
    publish(result, kept, folder / "policy")
    mark(folder, stamp, done=True)
    if config.reward.constrained:
        show_limits(config.reward, pq.read_table(folder / "metrics.parquet").to_pylist(), console)
    if parting.looks:
        show_table(console, parting.table(), TABLE_WIDTH)
    say_end(console, "train", f"{folder / 'policy'} holds the model aligned to {config.target}", _progress(folder))


def _reference_reward(prior: Prior) -> tuple[float, float]:
    """Mean reward of the reference's lists for the training prompts, and its standard error over the prompts."""
    of_prompts = np.nanmean(prior.rewards[~np.isnan(prior.rewards).all(axis=1)], axis=1)
    return float(of_prompts.mean()), float(of_prompts.std() / np.sqrt(max(1, len(of_prompts) - 1)))


def _parted(train: TrainSettings, parting: Parting, row: dict[str, float]) -> list[str]:
    """A warning at the first row by which training prompts have gained and fresh ones have not."""
    if not parting.see(row):
        return []
    seen, fresh = parting.rises(parting.looks[-1])
    held_out = "train.prompts_from: held_out, " if train.prompts_from == "train" else ""
    words = (
        f"since the start the reward of sampled lists has risen by {seen:.4f} on training prompts and by "
        f"{fresh:.4f} on fresh ones: what is learnt is these prompts; {held_out}more train.prompts, fewer train.steps "
        "or a higher learner.kl_coef may help"
    )
    return [words]


def _progress(folder: Path) -> str:
    """How the reward rose."""
    file = folder / "metrics.parquet"
    rows = pq.read_table(file).to_pylist() if file.is_file() else []
    if not rows:
        return f"how its reward rose, is not known: {file} is missing"
    few = max(1, min(ENDS, len(rows) // 2))
    first, last = (_mean([row["reward"] for row in part]) for part in (rows[:few], rows[-few:]))
    line = f"reward {last} on average in the last {few} of {len(rows)} steps, {first} in the first {few}"
    validated = [row[VALIDATION] for row in rows if row.get(VALIDATION) is not None]
    line += f"; {max(validated):.4f} on validation prompts at its best, which is kept" if validated else ""
    warned = sorted({name.removeprefix(COLUMN) for row in rows for name in row if name.startswith(COLUMN)})
    return line + (f"; warnings of {', '.join(warned)} on the way, see {COLUMN}... in {file}" if warned else "")


def _mean(rewards: list[float]) -> str:
    """Of steps, with its interval over them where they are several."""
    found = mean_interval(np.array(rewards), np.arange(len(rewards)), RESAMPLES, seed=0)
    return f"{found.mean:.4f}" + (f" [{found.low:.3f}, {found.high:.3f}]" if len(rewards) > 1 else "")


def _check_prior(run: OpenedRun, prior: Prior, console: Console) -> None:
    """Says what the prior is like; whether there is something to learn, and floors and ceilings are in reach."""
    show_prior(prior, console)
    check_limits(run, prior, console)


def _fit(
    run: OpenedRun,
    placement: Placement,
    pool: EnginePool,
    scorers: tuple[RewardHandle, RewardHandle | None],
    offload: bool,
    kept: CheckpointConfig,
    listen: Callable[[Callable[[], None]], StepListener],
) -> Result | None:
    """What the learners left at their end; None where the run was stopped before it.

    ``scorers``: of training prompts and, or None, of validation prompts.

    Raises:
        UserError: an engine was lost too often.
    """
    config = run.config.in_training
    root, folder = run.paths.root.absolute(), run.paths.target(config.target)
    estimator = EstimatorActor.options(**beside_driver()).remote(run.paths.prior.absolute(), run.prior_stamp, config)
    roles = Roles(replace(pool, user="the pipeline"), scorers[0], estimator, _held_out(run, scorers[1]))
    pipeline = Pipeline.options(**beside_driver(), max_concurrency=PIPELINE_CALLS).remote(config, run.rows, root)
    transport = choose_transport(config.weights.transport, placement.on_gpus, placement.colocated)
    try:
        with (
            tracker(folder, config, _alarms(config)) as log,
            watched(config, the_estimator=estimator, the_pipeline=pipeline),
        ):
            learning = replace(pool, user="the learners")
            job = AlignJob(config, root, run.rows, learning, transport, offload, pipeline, roles, log)
            listener = listen(pipeline.stop.remote)
            end = pipeline.stop.remote
            learners, engines_beside = placement.learners, placement.engines
            result = fit(align, job, config, folder / LEARNERS, learners, kept, listener, end, engines_beside)
        return None if ray.get(pipeline.stopped.remote()) else result
    except Exception as error:
        if (lost := pool.given_up() or _died(error, {"the estimator": estimator, "the pipeline": pipeline})) is None:
            raise
        step = saved_step(folder / LEARNERS)
        raise RoleLostError(f"{lost}; run the same command again: it goes on from step {step}") from error
    finally:
        for actor in (pipeline, estimator):
            ray.kill(actor)


def _died(error: Exception, actors: dict[str, Any]) -> str | None:
    """Which of the actors it was whose death ended the run; None where it was none of them."""
    cause = origin(error)
    if not isinstance(cause, ray.exceptions.RayActorError):
        return None
    names = [name for name, actor in actors.items() if actor._actor_id.hex() == cause.actor_id]
    return f"{names[0]} died again and again without a step between; had its node no memory left?" if names else None


def _alarms(config: Config) -> Callable[[], Alarms]:
    """Who looks at the steps, one for everybody who is shown them."""
    return partial(Alarms, config.warn_limits, config.warn.window)


def _held_out(run: OpenedRun, scorer: RewardHandle | None) -> HeldOut | None:
    """The validation prompts; none without somebody who scores them."""
    if scorer is None:
        return None
    return HeldOut(validation_rows(run.config, len(run.data.validation)), scorer)


def _kept(train: TrainSettings) -> CheckpointConfig:
    """Which checkpoints Ray Train keeps: the best ones where there is validation, and always the last one."""
    if not train.validation_prompts:
        return CheckpointConfig(num_to_keep=train.keep_checkpoints)
    return CheckpointConfig(train.keep_checkpoints, checkpoint_score_attribute=VALIDATION, checkpoint_score_order="max")


def is_aligned(run: OpenedRun, folder: Path, what: str) -> bool:
    """Whether ``folder`` holds ``what``, an alignment of this run, whole.

    Raises:
        UserError: it holds one of other settings. Another ``train.steps`` is no such one where a checkpoint is there,
            of no later step: it goes on from that.
    """
    instead = "choose another run.dir, or move that folder away, and train makes it anew"
    return is_done(folder, align_stamp(run), what, instead, _growing(run.config, folder))


def _growing(config: Config, folder: Path) -> list[str]:
    return ["train.steps"] if 0 < saved_step(folder / LEARNERS) <= config.train.steps else []


def _going_on(config: Config, folder: Path, steps_there: int | None) -> str | None:
    """From which step the training in ``folder`` goes on, and with which learning rate where its steps changed.

    ``steps_there``: ``train.steps`` of the earlier sitting.
    """
    if not (step := saved_step(folder / LEARNERS)):
        return None
    line = f"goes on from step {step}, saved in {folder / 'learners'}"
    steps, learner = config.train.steps, config.learner
    if steps == steps_there:
        return line
    peak, warmup = config.learner_lr, learner.warmup_steps
    rate = learning_rate(step, peak=peak, total=steps, warmup=warmup, schedule=learner.schedule)
    return (
        f"{line}, to step {steps} (train.steps: {steps_there} there, {steps} now); the learning rate is that of "
        f"{steps} steps from here on, {rate:.2g} at first (learner.schedule: {learner.schedule})"
    )


def align_stamp(run: OpenedRun) -> dict[str, Any]:
    """All that the aligned weights depend on, by setting; not where and how fast they are made."""
    config = run.config
    how_fast = {"workers", "zero_stage", "cpus_per_worker", "tokens_per_microbatch", "shared_prefix"}
    how_fast |= {"gradient_checkpointing"}
    limits = {"at_least", "at_most", "multiplier_lr"} if config.reward.constrained else set()
    late = {"max_staleness"} if config.rollout.max_staleness else set()
    chooses = {"validation_prompts", "patience", "checkpoint_every"} if config.train.validation_prompts else set()
    method = {
        "target": config.target,
        "run.seed": config.run.seed,
        "model.dtype": config.model.dtype,
        "posterior": config.posterior.model_dump(mode="json"),
        "advantage": config.advantage.model_dump(mode="json"),
        "limits of reward": config.reward.model_dump(mode="json", include=limits),
        "rollout": config.rollout.model_dump(mode="json", include={"group_size"} | late),
        "learner": config.learner.model_dump(mode="json", exclude=how_fast) | {"lr": config.learner_lr},
        "train": config.train.model_dump(mode="json", include={"steps", "prompts", "prompts_per_step"} | chooses),
        "prior.refresh_every": config.refresh_every,
    }
    if config.target == "bond":
        method["bond"] = config.bond.model_dump(mode="json")
    return run.prior_stamp | method
