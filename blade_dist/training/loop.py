"""The alignment loop, as every learner rank runs it: take, learn, push, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from blade_dist.batches import LearnBatch
from blade_dist.data.prompts import PromptTable
from blade_dist.rollouts.pool import EnginePool
from blade_dist.settings import Config
from blade_dist.store.checkpoints import LEARNERS
from blade_dist.store.files import write_json
from blade_dist.store.run import RunPaths
from blade_dist.tracking.parting import START
from blade_dist.training.checkpoint import RankCheckpoint
from blade_dist.training.collective import ENGINES, MODEL, from_first, own_rank, tell
from blade_dist.training.pipeline import PUSH, VALIDATION, Roles
from blade_dist.training.probe import probe_request
from blade_dist.training.prompter import Prompter
from blade_dist.training.publish import Published, Publisher
from blade_dist.training.rank import Rank
from blade_dist.training.saving import Saver


@dataclass(frozen=True)
class AlignJob:
    """What the driver hands to every rank."""

    config: Config
    run: Path
    """The run's folder."""
    rows: NDArray
    """int64 ``[n]`` training prompts that may be used."""
    pool: EnginePool
    """The engines."""
    transport: str
    offload: bool
    """Whether the engines free their memory while the learners learn."""
    pipeline: Any
    roles: Roles
    """Who works for the pipeline."""
    tracker: Any


def align(job: AlignJob) -> None:
    """Runs the alignment from the last checkpoint, or from the reference, to the last step."""
    config, train = job.config, job.config.train
    job.pool.check()
    torch.manual_seed(config.run.seed)
    torch.set_num_threads(config.learner.cpus_per_worker)
    tell(job.tracker, MODEL)
    rank = Rank(config, RunPaths(job.run))
    saver = Saver(rank.paths.target(config.target) / LEARNERS)
    checkpoint = RankCheckpoint(rank, saver, job.pipeline, job.roles, job.tracker)
    state, saving = checkpoint.restore(), 0.0
    _record_hosts(job)
    with saver, _publisher(job, rank) as publisher:
        tell(job.tracker, ENGINES)
        _push(job, rank, publisher, (state.attempt, resumed := state.step))
        tell(job.tracker, "the first step")
        start = {} if resumed else _held_out(rank, publisher, (state.attempt, 0), job.pipeline.sample_fresh)
        start = {f"{name}{START}": value for name, value in start.items()}
        for step in range(state.step, train.steps):
            if state.patience.over(train.patience):
                break
            began = time.perf_counter()
            while (share := _take(job, state.attempt, step)) == PUSH:
                publisher.publish((state.attempt, step), rank.policy_model)
            if share is None:
                if step % train.checkpoint_every and step > resumed:
                    checkpoint.save(state, {})  # a run that was asked to end loses no step
                break
            batch, numbers = share
            taken = time.perf_counter()
            publisher.offload()
            stats = rank.learn(batch, step)
            state.skips.see(stats.not_finite, step, train.max_skipped, "learner.lr")
            learned = time.perf_counter()
            published = _push(job, rank, publisher, (state.attempt, step + 1))
            seconds = {"take": taken - began, "learn": learned - taken, "step": time.perf_counter() - began}
            seconds["save"] = saving  # what the step before waited for its checkpoint
            state.step = step + 1
            due = state.step % train.checkpoint_every == 0 or state.step == train.steps
            version = (state.attempt, state.step)
            validation = _held_out(rank, publisher, version, job.pipeline.validate) if due else {}
            if validation:
                state.patience.see(validation[VALIDATION])
            numbers |= validation | stats.numbers | ({} if step else start)
            numbers |= {"skipped_steps": float(state.skips.total)}
            _report(job, step, numbers, published, seconds, rank.learning_rate(step))
            began = time.perf_counter()
            if due:
                checkpoint.save(state, validation)
            else:
                saver.look()
            saving = time.perf_counter() - began


def _publisher(job: AlignJob, rank: Rank) -> Publisher:
    config = job.config
    table = PromptTable.load(RunPaths(job.run).data / "train.arrow")
    prompter = Prompter(table, rank.codec, config.run.seed, config.lists.exclude_history)
    # at the sampling temperature, because the learner's log-probs are those of that temperature too
    probe = probe_request(prompter, job.rows[: config.weights.probe_prompts], config.rollout.temperature)
    return Publisher(job.pool, job.transport, probe, rank.legality, config.logprob_tolerance, job.offload)


def _push(job: AlignJob, rank: Rank, publisher: Publisher, version: tuple[int, int]) -> Published:
    """Makes the engines serve the policy; where there is an anchor, it writes its lists of the coming step first.

    Raises:
        WeightPushError: see :meth:`~blade_dist.training.publish.Publisher.publish`.
    """
    if (anchor := rank.anchor_model) is not None and version[1] < job.config.train.steps:
        written = False
        while not written:
            publisher.publish(version, anchor)
            written = from_first(lambda: ray.get(job.pipeline.write_anchor.remote(*version)))
    return publisher.publish(version, rank.policy_model)


def _take(job: AlignJob, attempt: int, step: int) -> tuple[LearnBatch, dict[str, float]] | Literal["push"] | None:
    """This rank's share of the step, and the numbers of the whole; None where the run was stopped; PUSH where no engine
    holds the weights.

    Raises:
        RuntimeError: lists came that were written by older weights than ``rollout.max_staleness`` allows, or by
            another step's anchor.
    """
    taken = ray.get(job.pipeline.take.remote(attempt, step, own_rank()))
    if taken is None or taken == PUSH:
        return taken
    share, numbers = taken
    batch: LearnBatch = ray.get(share)
    if batch.imitated is not None and (batch.imitated.version != (attempt, step)).any():
        raise RuntimeError(f"an anchor's lists arrived that were not written for step {step} of attempt {attempt}")
    staleness = step - batch.rollouts.version[:, 1]
    allowed = (batch.rollouts.version[:, 0] == attempt) & (staleness >= 0)
    if not (allowed & (staleness <= job.config.rollout.max_staleness)).all():
        raise RuntimeError(
            f"lists of weights {batch.rollouts.version.tolist()[:3]} arrived for weights {(attempt, step)}"
        )
    return batch, {**numbers, "staleness": float(staleness.mean()) if len(staleness) else 0.0}


def _held_out(rank: Rank, publisher: Publisher, version: tuple[int, int], asked: Any) -> dict[str, float]:
    """What a method of the pipeline says of the weights that were pushed last, on held-out prompts; empty where nothing
    is validated."""
    while (numbers := from_first(lambda: ray.get(asked.remote()))) == PUSH:
        publisher.publish(version, rank.policy_model)
    return numbers


def _report(
    job: AlignJob,
    step: int,
    numbers: dict[str, float],
    published: Published,
    seconds: dict[str, float],
    lr: float,
) -> None:
    """Hands the step's row to the tracker (rank 0)."""
    if own_rank() != 0:
        return
    row = {
        **numbers,
        "lr": lr,
        "logprob_gap": published.gap,
        "lists_per_second": numbers["lists"] / seconds["step"],
        "seconds/push": published.seconds,
        "push_bytes": float(published.bytes),
        **{f"seconds/{name}": value for name, value in seconds.items()},
    }
    job.tracker.record.remote(step, row)


def _record_hosts(job: AlignJob) -> None:
    """Writes the addresses of the nodes that really work, by role: ``hosts.json`` beside the step log."""
    learners: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(learners, ray.util.get_node_ip_address())
    if own_rank() == 0:
        folder = RunPaths(job.run).target(job.config.target)
        write_json(folder / "hosts.json", {"engines": job.pool.addresses(), "learners": learners})
