"""Supervised fine-tuning on the lists, with the learners of the alignment: every rank runs :func:`fine_tune`."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.data.prompts import PromptTable
from blade_dist.data.seeds import prompts_of_step, stable_seed
from blade_dist.learners.dropout import add_dropout
from blade_dist.learners.objective import learning_rate
from blade_dist.learners.packing import MicroBatch, PromptLists
from blade_dist.learners.policy import Policy, build_model, load_model
from blade_dist.learners.zero import DeepSpeedLearner
from blade_dist.settings import Config, LearnerSettings
from blade_dist.store.files import read_json, write_json
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths
from blade_dist.weights.gather import full_state


@dataclass(frozen=True)
class SftJob:
    """What the driver hands to every rank."""

    config: Config
    run: Path
    tracker: Any


@dataclass
class Progress:
    """How far it is; saved with every checkpoint."""

    step: int = 0
    best: float = math.inf
    """Lowest validation loss, nats per token."""
    without_better: int = 0
    """Validations since the best."""
    seconds: float = 0.0
    ranks: int = 1
    """Learners."""


def fine_tune(job: SftJob) -> None:
    """Steps until the validation loss has stopped falling; a checkpoint at every validation, best one marked."""
    config = job.config
    torch.manual_seed(config.run.seed)
    torch.set_num_threads(config.learner.cpus_per_worker)
    paths = RunPaths(job.run)
    codec = Codec.load(paths.codec)
    train, validation = (
        _Examples(paths.data / f"{split}.arrow", codec, config.lists.k) for split in ("train", "validation")
    )
    model = start_model(config, codec)
    if config.sft.dropout:
        add_dropout(model, config.sft.dropout)
    policy = Policy(model, temperature=1.0)
    learner = DeepSpeedLearner(policy, sft_learner(config), config.model.dtype, codec.pad)
    progress = _restore(learner)
    progress.ranks = learner.world_size
    per_epoch = math.ceil(len(train) / config.sft.batch_size)
    total = per_epoch * config.sft.epochs
    interval = max(1, per_epoch // config.sft.validations_per_epoch)
    while progress.step < total and not _finished(progress, config):
        began = time.perf_counter()
        losses = []
        for step in range(progress.step, min(progress.step + interval, total)):
            rows = prompts_of_step(config.run.seed, step, len(train), config.sft.batch_size)
            lr = learning_rate(
                step, peak=config.sft.lr, total=total, warmup=int(config.sft.warmup * total), schedule="cosine"
            )
            torch.manual_seed(stable_seed(config.run.seed, step, learner.rank))  # dropout, resumed or not
            losses.append(_step(learner, train, rows, lr))
            progress.step = step + 1
        loss = _mean_loss(learner, validation)
        better = loss < progress.best
        progress.best = min(loss, progress.best)
        progress.without_better = 0 if better else progress.without_better + 1
        progress.seconds = learner.max_over_ranks(progress.seconds + time.perf_counter() - began)
        if learner.rank == 0:
            row = {"loss": float(np.mean(losses)), "validation_loss": loss, "epoch": progress.step / per_epoch}
            job.tracker.record.remote(progress.step - 1, row)  # of the last step done
            ray.get(job.tracker.flush.remote())
        _save(learner, codec, progress, loss, config)


def start_model(config: Config, codec: Codec) -> Any:
    """The base checkpoint with room for the codec's tokens, or a small Llama of its own."""
    if config.model.path is None:
        return build_model(config.model, len(codec.tokenizer), codec.pad, codec.end)
    model = load_model(config.model.path, config.model)
    if len(codec.tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(codec.tokenizer))
    return model


def sft_learner(config: Config) -> LearnerSettings:
    """The learner's settings with the optimizer of the fine-tuning; a prompt has one list there."""
    own = {"lr": config.sft.lr, "weight_decay": config.sft.weight_decay, "shared_prefix": False}
    return config.learner.model_copy(update=own)


class _Examples:
    """Prompt and held-out list of each row of a split."""

    def __init__(self, path: Path, codec: Codec, k: int) -> None:
        self._table = PromptTable.load(path)
        self._codec = codec
        self._k = k

    def __len__(self) -> int:
        return len(self._table)

    def sequences(self, rows: NDArray[np.int64]) -> PromptLists:
        prompts = self._table.rows(rows)
        lists = Ragged.of([prompts.targets[row][: self._k] for row in range(len(prompts))])
        return PromptLists.single(self._codec.encode_prompts(prompts.history), self._codec.encode_lists(lists))


def _step(learner: DeepSpeedLearner, examples: _Examples, rows: NDArray[np.int64], lr: float) -> float:
    own = examples.sequences(rows[learner.rank :: learner.world_size])
    tokens = float(learner.sum_over_ranks(torch.tensor(float(len(own.tokens.flat)))))
    total = torch.zeros(1, dtype=torch.float64)

    def loss(_: MicroBatch, logprob: torch.Tensor) -> torch.Tensor:
        total.add_(-logprob.detach().double().sum().cpu())
        return -logprob / tokens

    learner.update(own, loss, lr)
    return float(learner.sum_over_ranks(total)) / tokens


def _mean_loss(learner: DeepSpeedLearner, examples: _Examples) -> float:
    own = examples.sequences(np.arange(learner.rank, len(examples), learner.world_size))
    logprobs = learner.logprobs(own)
    sums = learner.sum_over_ranks(torch.tensor([-float(logprobs.double().sum()), float(len(logprobs))]))
    return float(sums[0] / sums[1])


def _finished(progress: Progress, config: Config) -> bool:
    late = config.sft.max_seconds is not None and progress.seconds >= config.sft.max_seconds
    return late or progress.without_better >= config.sft.patience


def _restore(learner: DeepSpeedLearner) -> Progress:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Progress()
    with checkpoint.as_directory() as folder:
        learner.load_state(Path(folder) / "deepspeed")
        return Progress(**(read_json(Path(folder) / "progress.json") or {}))


def _save(learner: DeepSpeedLearner, codec: Codec, progress: Progress, loss: float, config: Config) -> None:
    state = full_state(learner.model, config.weights.bucket_mb * 2**20, keep=learner.rank == 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        learner.save_state(folder / "deepspeed")
        if learner.rank == 0:
            save_policy(
                folder / "policy",
                learner.model,
                state,
                codec.tokenizer,
                codec=codec.fingerprint(),
                policy="sft",
                step=progress.step,
            )
            write_json(folder / "progress.json", vars(progress))
        metrics = {"validation_loss": loss, "step": progress.step}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
