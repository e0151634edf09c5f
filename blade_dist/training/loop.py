"""The alignment loop, as every learner rank runs it: take, learn, push, report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from blade_dist.batches import LearnBatch
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import Legality
from blade_dist.data.prompts import PromptTable
from blade_dist.learners.adapter import add_adapter, save_adapter
from blade_dist.learners.anchor import Anchor
from blade_dist.learners.objective import learning_rate
from blade_dist.learners.packing import PromptLists
from blade_dist.learners.policy import Policy, choose_attention, load_model
from blade_dist.learners.update import Aligner, StepStats
from blade_dist.learners.zero import DeepSpeedLearner
from blade_dist.settings import Config
from blade_dist.store.files import read_json, write_json
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths
from blade_dist.training.patience import Patience
from blade_dist.training.pipeline import VALIDATION
from blade_dist.training.probe import ask_engines, probe_gap, probe_request
from blade_dist.training.prompter import Prompter
from blade_dist.weights.gather import full_state, source, trained_state
from blade_dist.weights.push import PushReport, WeightPusher

ANCHOR = "anchor.safetensors"
"""Its weights, in a checkpoint."""


@dataclass(frozen=True)
class AlignJob:
    """What the driver hands to every rank."""

    config: Config
    run: Path
    """The run's folder."""
    rows: NDArray[np.int64]
    """Training prompts that may be used."""
    engines: list[Any]
    """Handles of the engine actors."""
    transport: str
    offload: bool
    """Whether the engines sleep while the learners learn."""
    pipeline: Any
    estimator: Any
    tracker: Any


def align(job: AlignJob) -> None:
    """Runs the alignment from the last checkpoint, or from the reference, to the last step."""
    rank = Rank(job)
    attempt, start = rank.restore()
    rank.record_hosts()
    rank.push((attempt, start))
    for step in range(start, job.config.train.steps):
        if rank.patience.over(job.config.train.patience):
            break
        began = time.perf_counter()
        if (share := rank.take(attempt, step)) is None:
            break
        batch, numbers = share
        taken = time.perf_counter()
        rank.rest_engines()
        stats = rank.learn(batch, step)
        learned = time.perf_counter()
        pushed, gap = rank.push((attempt, step + 1))
        seconds = {"take": taken - began, "learn": learned - taken, "step": time.perf_counter() - began}
        due = (step + 1) % job.config.train.checkpoint_every == 0 or step + 1 == job.config.train.steps
        validation = rank.validate() if due else {}
        rank.report(step, numbers | validation, stats, pushed, gap, seconds)
        if due:
            rank.save(attempt, step + 1, validation)
    rank.close()


class Rank:
    """One rank's parts and what they do together."""

    def __init__(self, job: AlignJob) -> None:
        config, paths = job.config, RunPaths(job.run)
        torch.manual_seed(config.run.seed)
        torch.set_num_threads(config.learner.cpus_per_worker)
        self._job = job
        self._config = config
        self._codec = Codec.load(paths.codec)
        temperature = config.rollout.temperature
        policy = Policy(load_model(paths.reference, config.model), temperature)
        if config.learner.lora is not None:
            add_adapter(policy.model, config.learner.lora)
        self.learner = DeepSpeedLearner(policy, config.learner, config.model.dtype, self._codec.pad)
        own = None if config.learner.lora is not None else self._load_reference()
        reference = self.learner.base_logprobs if own is None else partial(self.learner.logprobs, policy=own)
        self._legality = Legality.load(config.lists, self._codec, paths.trie, paths.catalog)
        self._aligner = Aligner(
            self.learner, reference, config.learner, config.kl_coef, self._legality, config.own_share
        )
        self._source = source(self.learner.model, config.weights.bucket_mb)
        self._pusher = WeightPusher(job.engines, job.transport, self._source, self.learner.rank, dist.barrier)
        self._anchor = Anchor(own, config.bond.eta) if own is not None and config.target == "bond" else None
        table, excluded = PromptTable.load(paths.data / "train.arrow"), config.lists.exclude_history
        prompter = Prompter(table, self._codec, config.run.seed, excluded)
        self._probe = probe_request(prompter, job.rows[: config.weights.probe_prompts], temperature)
        self.patience = Patience()

    def _load_reference(self) -> Policy:
        """The reference with weights of its own."""
        model = load_model(RunPaths(self._job.run).reference, self._config.model)
        policy = Policy(model, self._config.rollout.temperature).to(self.learner.device).requires_grad_(False)
        if self.learner.shares_prefix:
            choose_attention(policy)
        return policy

    def restore(self) -> tuple[int, int]:
        """State of the last checkpoint, if there is one; the number of this attempt and the step to start from."""
        saved: dict[str, Any] = {"attempt": 0, "step": 0}
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                saved = read_json(Path(folder) / "progress.json") or saved
                self.learner.load_state(Path(folder) / "deepspeed")
                if self._anchor is not None:
                    self._anchor.load(Path(folder) / ANCHOR)
                state = (Path(folder) / "estimator.arrow").read_bytes()
                torch.set_rng_state(torch.from_numpy(np.load(Path(folder) / f"rng-{self.learner.rank}.npy")))
        self.patience = Patience(**saved.get("patience", {}))
        attempt = 0
        if self.learner.rank == 0:
            # the number first: by it the estimator refuses chains of older attempts that are still under way
            attempt = ray.get(self._job.pipeline.begin.remote(saved["attempt"]))
            ray.get(self._job.estimator.restore.remote(None if checkpoint is None else state, attempt))
        return int(self.learner.max_over_ranks(attempt)), saved["step"]

    def record_hosts(self) -> None:
        """Writes the addresses of the nodes that really work, by role: ``hosts.json`` beside the step log."""
        learners: list[Any] = [None] * self.learner.world_size
        dist.all_gather_object(learners, ray.util.get_node_ip_address())
        if self.learner.rank == 0:
            engines = [place["node_ip"] for place in ray.get([e.describe.remote() for e in self._job.engines])]
            folder = RunPaths(self._job.run).target(self._config.target)
            write_json(folder / "hosts.json", {"engines": engines, "learners": learners})

    def rest_engines(self) -> None:
        """Engines that share GPUs with the learners give their memory back until the push."""
        if self._job.offload:
            self._tell_engines("sleep")

    def _tell_engines(self, verb: str, *arguments: Any) -> None:
        """Rank 0 calls every engine; all ranks go on once it has answered."""
        if self.learner.rank == 0:
            ray.get([getattr(engine, verb).remote(*arguments) for engine in self._job.engines])
        dist.barrier()

    def learn(self, batch: LearnBatch, step: int) -> StepStats:
        """The step's update of the policy, which the anchor (where there is one) follows."""
        stats = self._aligner.learn(batch, self.learning_rate(step))
        if self._anchor is not None:
            self._anchor.follow(self._source())
        return stats

    def push(self, version: tuple[int, int]) -> tuple[PushReport, float]:
        """Makes the engines serve the policy; where there is an anchor, it writes its lists of the coming step first.

        Raises:
            WeightPushError: see :meth:`_serve`.
        """
        if self._anchor is not None and version[1] < self._config.train.steps:
            weights = source(self._anchor.policy.model, self._config.weights.bucket_mb)
            self._serve(version, self._pusher.of(weights), partial(self.learner.logprobs, policy=self._anchor.policy))
            if self.learner.rank == 0:
                ray.get(self._job.pipeline.write_anchor.remote(*version))
            dist.barrier()
        return self._serve(version, self._pusher, self.learner.logprobs)

    def _serve(
        self, version: tuple[int, int], pusher: WeightPusher, logprobs: Callable[[PromptLists], torch.Tensor]
    ) -> tuple[PushReport, float]:
        """Sends weights and proves that they arrived; returns the report and the probe's log-prob gap.

        Raises:
            WeightPushError: the engines serve something else; it names the first parameter that differs.
        """
        began = time.perf_counter()
        if self._job.offload:
            self._tell_engines("wake", "weights")
        report = pusher.push(version)
        if self._job.offload:
            self._tell_engines("wake", "kv_cache")
        answers = [ask_engines(self._job.engines, self._probe) if self.learner.rank == 0 else None]
        dist.broadcast_object_list(answers, src=0)
        gap = probe_gap(answers[0] or [], self._probe, logprobs, self._legality)
        if gap > self._config.logprob_tolerance:
            raise pusher.diagnose(gap, self._config.logprob_tolerance)
        return PushReport(time.perf_counter() - began, report.bytes), gap

    def learning_rate(self, step: int) -> float:
        """Of this step."""
        learner = self._config.learner
        return learning_rate(
            step,
            peak=learner.lr,
            total=self._config.train.steps,
            warmup=learner.warmup_steps,
            schedule=learner.schedule,
        )

    def take(self, attempt: int, step: int) -> tuple[LearnBatch, dict[str, float]] | None:
        """This rank's share of the step, and the numbers of the whole; None where the run was stopped.

        Raises:
            RuntimeError: lists came that were written by older weights than ``rollout.max_staleness`` allows, or by
                another step's anchor.
        """
        if (taken := ray.get(self._job.pipeline.take.remote(attempt, step))) is None:
            return None
        whole, numbers = taken
        batch = whole.shard(self.learner.rank, self.learner.world_size)
        if batch.imitated is not None and (batch.imitated.version != (attempt, step)).any():
            raise RuntimeError(f"an anchor's lists arrived that were not written for step {step} of attempt {attempt}")
        staleness = step - batch.rollouts.version[:, 1]
        allowed = (batch.rollouts.version[:, 0] == attempt) & (staleness >= 0)
        if not (allowed & (staleness <= self._config.rollout.max_staleness)).all():
            raise RuntimeError(
                f"lists of weights {batch.rollouts.version.tolist()[:3]} arrived for weights {(attempt, step)}"
            )
        return batch, {**numbers, "staleness": float(staleness.mean()) if len(staleness) else 0.0}

    def validate(self) -> dict[str, float]:
        """What the weights that were pushed last are worth on held-out prompts; empty where nothing is validated."""
        found = [ray.get(self._job.pipeline.validate.remote()) if self.learner.rank == 0 else {}]
        dist.broadcast_object_list(found, src=0)
        if found[0]:
            self.patience.see(found[0][VALIDATION])
        return found[0]

    def report(
        self,
        step: int,
        numbers: dict[str, float],
        stats: StepStats,
        pushed: PushReport,
        gap: float,
        seconds: dict[str, float],
    ) -> None:
        """Hands the step's row to the tracker (rank 0)."""
        if self.learner.rank != 0:
            return
        row = {
            **numbers,
            **asdict(stats),
            "lr": self.learning_rate(step),
            "logprob_gap": gap,
            "lists_per_second": numbers["lists"] / seconds["step"],
            "seconds/push": pushed.seconds,
            "push_bytes": float(pushed.bytes),
            **{f"seconds/{name}": value for name, value in seconds.items()},
        }
        self._job.tracker.record.remote(step, row)

    def save(self, attempt: int, step: int, validation: dict[str, float]) -> None:
        """One unit: weights, optimizer, estimator, cursor, random state; the rows so far are on disk before it is."""
        first, lora = self.learner.rank == 0, self._config.learner.lora
        state = full_state(self.learner.model, self._config.weights.bucket_mb * 2**20, keep=first)
        adapter = (
            {} if lora is None else trained_state(self.learner.model, self._config.weights.bucket_mb * 2**20, first)
        )
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.learner.save_state(folder / "deepspeed")
            np.save(folder / f"rng-{self.learner.rank}.npy", torch.get_rng_state().numpy())
            if first:
                save_policy(
                    folder / "policy",
                    self.learner.model,
                    state,
                    self._codec.tokenizer,
                    codec=self._codec.fingerprint(),
                    policy=self._config.target,
                    step=step,
                )
                if lora is not None:
                    save_adapter(folder / "policy" / "adapter", adapter, lora, RunPaths(self._job.run).reference)
                if self._anchor is not None:
                    self._anchor.save(folder / ANCHOR)
                (folder / "estimator.arrow").write_bytes(ray.get(self._job.estimator.state.remote(step)))
                progress = {"attempt": attempt, "step": step, "ranks": self.learner.world_size}
                progress["patience"] = asdict(self.patience)
                write_json(folder / "progress.json", progress)
                ray.get(self._job.tracker.flush.remote())
            numbers = {"step": step} | {name: validation[name] for name in validation if name == VALIDATION}
            ray.train.report(numbers, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def close(self) -> None:
        """Lets go of the transport."""
        self._pusher.close()
