"""Supervised fine-tuning on the lists, with the learners of the alignment: every rank runs :func:`fine_tune`."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, dataclass, field
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
from blade_dist.training.patience import Patience
from blade_dist.weights.gather import full_state


@dataclass(frozen=True)
class SftJob:
    """What the driver hands to every rank."""

    config: Config
    run: Path
    tracker: Any


@dataclass
class SftState:
    """How far the fine-tuning is: ``progress.json`` of a checkpoint."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Spent on them, over all attempts."""
    ranks: int = 1
    patience: Patience = field(default_factory=Patience)
    """Is shown minus the validation loss (nats per token)."""

    @classmethod
    def of(cls, saved: dict[str, Any], ranks: int) -> SftState:
        """That of a ``progress.json``, for so many ranks."""
        # version 0.1.0 kept the two numbers of patience beside the others, and its best was a loss
        patience = saved.get("patience") or {"best": -saved["best"], "without_better": saved["without_better"]}
        return cls(saved["step"], saved["seconds"], ranks, Patience(**patience))


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
    state = _restore(learner)
    per_epoch = math.ceil(len(train) / config.sft.batch_size)
    total = per_epoch * config.sft.epochs
    interval = max(1, per_epoch // config.sft.validations_per_epoch)
    while state.step < total and not _finished(state, config):
        began = time.perf_counter()
        losses = []
        for step in range(state.step, min(state.step + interval, total)):
            rows = prompts_of_step(config.run.seed, step, len(train), config.sft.batch_size)
            lr = learning_rate(
                step, peak=config.sft.lr, total=total, warmup=int(config.sft.warmup * total), schedule="cosine"
            )
            # dropout draws from here, so that a resumed run drops what the uninterrupted one did
            torch.manual_seed(stable_seed(config.run.seed, step, learner.rank))
            losses.append(_step(learner, train, rows, lr))
            state.step = step + 1
        loss = _mean_loss(learner, validation)
        state.patience.see(-loss)
        state.seconds = learner.max_over_ranks(state.seconds + time.perf_counter() - began)
        if learner.rank == 0:
            row = {"loss": float(np.mean(losses)), "validation_loss": loss, "epoch": state.step / per_epoch}
            job.tracker.record.remote(state.step - 1, row)  # of the last step done
            ray.get(job.tracker.flush.remote())
        _save(learner, codec, state, loss, config)


def start_model(config: Config, codec: Codec) -> Any:
    """The base checkpoint with room for the codec's tokens, or a small Llama with random weights."""
    if config.model.path is None:
        return build_model(config.model, len(codec.tokenizer), codec.pad, codec.end)
    model = load_model(config.model.path, config.model)
    if len(codec.tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(codec.tokenizer))
    return model


def sft_learner(config: Config) -> LearnerSettings:
    """The learner's settings with the optimizer of the fine-tuning; a prompt has one list there."""
    changed = {"lr": config.sft.lr, "weight_decay": config.sft.weight_decay, "shared_prefix": False}
    return config.learner.model_copy(update=changed)


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
    share = examples.sequences(rows[learner.rank :: learner.world_size])
    tokens = float(learner.sum_over_ranks(torch.tensor(float(len(share.tokens.flat)))))
    total = torch.zeros(1, dtype=torch.float64)

    def loss(_: MicroBatch, logprob: torch.Tensor) -> torch.Tensor:
        total.add_(-logprob.detach().double().sum().cpu())
        return -logprob / tokens

    learner.update(share, loss, lr)
    return float(learner.sum_over_ranks(total)) / tokens


def _mean_loss(learner: DeepSpeedLearner, examples: _Examples) -> float:
    share = examples.sequences(np.arange(learner.rank, len(examples), learner.world_size))
    logprobs = learner.logprobs(share)
    sums = learner.sum_over_ranks(torch.tensor([-float(logprobs.double().sum()), float(len(logprobs))]))
    return float(sums[0] / sums[1])


def _finished(state: SftState, config: Config) -> bool:
    late = config.sft.max_seconds is not None and state.seconds >= config.sft.max_seconds
    return late or state.patience.over(config.sft.patience)


def _restore(learner: DeepSpeedLearner) -> SftState:
    """The newest checkpoint's state, or that of a new run."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return SftState(ranks=learner.world_size)
    with checkpoint.as_directory() as folder:
        learner.load_state(Path(folder) / "deepspeed")
        return SftState.of(read_json(Path(folder) / "progress.json") or {}, learner.world_size)


def _save(learner: DeepSpeedLearner, codec: Codec, state: SftState, loss: float, config: Config) -> None:
    weights = full_state(learner.model, config.weights.bucket_mb * 2**20, keep=learner.rank == 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        learner.save_state(folder / "deepspeed")
        if learner.rank == 0:
            save_policy(
                folder / "policy",
                learner.model,
                weights,
                codec.tokenizer,
                codec=codec.fingerprint(),
                policy="sft",
                step=state.step,
            )
            write_json(folder / "progress.json", asdict(state))
        metrics = {"validation_loss": loss, "step": state.step}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
