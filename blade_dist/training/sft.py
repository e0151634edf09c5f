"""Supervised fine-tuning on users' sequences, with the learners of the alignment: every rank runs :func:`fine_tune`."""

from __future__ import annotations

import math
import sys
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
from blade_dist.catalog.tokenizer import load_tokenizer
from blade_dist.data.seeds import prompts_of_step, stable_seed
from blade_dist.data.sequence_table import SequenceTable
from blade_dist.learners.adapter import add_adapter
from blade_dist.learners.dropout import add_dropout
from blade_dist.learners.item_vectors import add_item_vectors
from blade_dist.learners.objective import learning_rate
from blade_dist.learners.packing import MicroBatch, PromptLists
from blade_dist.learners.policy import Policy, build_model, load_model
from blade_dist.learners.zero import DeepSpeedLearner
from blade_dist.settings import Config, LearnerSettings
from blade_dist.store.checkpoints import LEARNERS, OPTIMIZER, PROGRESS, Layout
from blade_dist.store.files import read_json, write_json
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths
from blade_dist.training.collective import MODEL, own_rank, tell
from blade_dist.training.ending import Ending
from blade_dist.training.patience import Patience
from blade_dist.training.saving import Saver
from blade_dist.training.skips import Skips
from blade_dist.training.teacher import Teacher
from blade_dist.training.validation import Validation
from blade_dist.training.windows import Windows, continued_lists, training_rows
from blade_dist.weights.gather import full_state

IMITATION = 0.5
"""Weight of a place in a list, where items have tokens of their own there, beside the 1 of a place in a sequence."""
PLACES = 3
"""Places of each list that are learned: its prompt is computed once for them."""
MOST_LISTS = 128
"""Lists of a step and rank at most; there is one for every other window of a smaller batch, as a list costs as much as
two windows."""


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
    layout: Layout = field(default_factory=Layout)
    patience: Patience = field(default_factory=Patience)
    """Is shown the validation NDCG."""
    losses: list[float] = field(default_factory=list)
    """Of the steps that were taken since the last validation."""
    skips: Skips = field(default_factory=Skips)

    @classmethod
    def of(cls, saved: dict[str, Any], layout: Layout) -> SftState:
        """That of a ``progress.json``, for ranks of this layout."""
        patience, skips = Patience(**saved["patience"]), Skips(**saved.get("skips", {}))
        return cls(saved["step"], saved["seconds"], layout, patience, saved.get("losses", []), skips)


def fine_tune(job: SftJob) -> None:
    """Steps until the validation NDCG has stopped rising; a checkpoint at every validation, best one marked."""
    config = job.config
    torch.manual_seed(config.run.seed)
    torch.set_num_threads(config.learner.cpus_per_worker)
    paths = RunPaths(job.run)
    codec = Codec.load(paths.codec)
    examples = _Examples(SequenceTable.load(paths.sequences), codec, config, paths.features)
    validation = Validation.load(config, paths, codec)
    tell(job.tracker, MODEL)
    learner = _start(config, paths, codec)
    state, ending = _restore(learner), Ending(job.tracker)
    per_epoch, total = sft_steps(len(examples), config)
    interval = max(1, per_epoch // config.sft.validations_per_epoch)
    saver, bucket_bytes = Saver(paths.sft / LEARNERS), config.weights.bucket_mb * 2**20
    tell(job.tracker, f"{interval - state.step % interval} steps and a validation")
    with saver:
        while state.step < total and not _finished(state, config):
            began = time.perf_counter()
            for step in range(state.step, min((state.step // interval + 1) * interval, total)):
                if ending.asked():
                    if state.losses:
                        state.seconds = learner.max_over_ranks(state.seconds + time.perf_counter() - began)
                        _save(saver, learner, codec, state, None, bucket_bytes)
                    return
                lr = learning_rate(
                    step, peak=config.sft_lr, total=total, warmup=int(config.sft.warmup * total), schedule="cosine"
                )
                # dropout draws from here, so that a resumed run drops what the uninterrupted one did
                torch.manual_seed(stable_seed(config.run.seed, step, learner.rank))
                loss, not_finite = _step(learner, examples, step, lr)
                state.skips.see(not_finite, step, config.train.max_skipped, "sft.lr")
                state.losses += [loss] if not_finite is None else []
                state.step = step + 1
                saver.look()
            ndcg, margin = validation.ndcg(learner)
            state.patience.see(ndcg)
            state.seconds = learner.max_over_ranks(state.seconds + time.perf_counter() - began)
            _record(job.tracker, state, ndcg, margin, per_epoch)
            state.losses.clear()
            _save(saver, learner, codec, state, ndcg, bucket_bytes)


def _record(tracker: Any, state: SftState, ndcg: float, margin: float, per_epoch: int) -> None:
    """A validation's row, on disk when this returns (rank 0)."""
    if own_rank() != 0:
        return
    row = {"validation_ndcg": ndcg, "validation_ndcg_margin": margin, "epoch": state.step / per_epoch}
    row |= {"skipped_steps": float(state.skips.total)}
    row |= {"loss": float(np.mean(state.losses))} if state.losses else {}
    tracker.record.remote(state.step - 1, row)  # of the last step done
    ray.get(tracker.flush.remote())


def _start(config: Config, paths: RunPaths, codec: Codec) -> DeepSpeedLearner:
    """The base checkpoint with what is there for the fine-tuning alone: item features and dropout."""
    model = start_model(config, codec)
    if config.model.path is None and codec.shown_tokens is not None:
        listed, shown = (rows.flat.astype(np.int64) for rows in (codec.item_tokens, codec.shown_tokens))
        vectors = add_item_vectors(model, listed, shown)
        if config.sft.item_features and paths.features.is_file():
            vectors.add_features(np.load(paths.features, allow_pickle=False))
    if config.sft_dropout:
        add_dropout(model, config.sft_dropout)
    if config.learner.lora is not None and why_whole(config, codec) is None:
        add_adapter(model, config.learner.lora)
    return DeepSpeedLearner(Policy(model, temperature=1.0), sft_learner(config), config.model.dtype, codec.pad)


def sft_steps(examples: int, config: Config) -> tuple[int, int]:
    """Steps of a pass over so many examples, and of the whole fine-tuning at most."""
    per_epoch = math.ceil(examples / config.sft.batch_size)
    return per_epoch, min(per_epoch * config.sft_epochs, config.sft.max_steps or sys.maxsize)


def why_whole(config: Config, codec: Codec) -> str | None:
    """Why the fine-tuning trains every weight though ``learner.lora`` is set; None where it trains adapters."""
    if config.model.path is None:
        return "a new model has nothing to adapt"
    new = codec.vocabulary - len(load_tokenizer(config.model.path))
    return f"{new} new tokens have vectors to learn" if new > 0 else None


def start_model(config: Config, codec: Codec) -> Any:
    """The base checkpoint with room for the codec's tokens, or a small Llama with random weights."""
    if config.model.path is None:
        return build_model(config.model, codec.vocabulary, codec.pad, codec.end)
    model = load_model(config.model.path, config.model)
    if codec.vocabulary > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(codec.vocabulary)
    return model


def sft_learner(config: Config) -> LearnerSettings:
    """The learner's settings with the optimizer of the fine-tuning, which packs rows wherever the model can."""
    changed = {"weight_decay": config.sft.weight_decay, "shared_prefix": True}
    return config.learner.model_copy(update=changed)


def sft_windows(sequences: SequenceTable, config: Config) -> Windows:
    """As long as what is served: the longest history that a prompt shows, and a list but for its last item."""
    return Windows(sequences.lengths, config.data.max_history + config.lists.k - 1, config.run.seed)


def sft_examples(windows: int, config: Config) -> NDArray[np.int64]:
    """Which of so many windows are learned from, ascending: all, or ``sft.max_examples`` of them."""
    most = config.sft.max_examples
    if most is None or most >= windows:
        return np.arange(windows)
    rng = np.random.default_rng(stable_seed(config.run.seed, "examples of sft"))
    return np.sort(rng.choice(windows, most, replace=False))


class _Examples:
    """Users' training parts in windows as long as the longest prompt with its list, but for the list's last item."""

    def __init__(self, sequences: SequenceTable, codec: Codec, config: Config, features: Path) -> None:
        self._sequences, self._codec = sequences, codec
        self._seed, self._batch = config.run.seed, config.sft.batch_size
        self._repeats = not config.lists.exclude_history
        self._history, self._k = config.data.max_history, config.lists.k
        self._windows = sft_windows(sequences, config)
        self._chosen = sft_examples(len(self._windows), config)
        # of a checkpoint, lists go on as they were taught to, and items in them have vectors of their own
        self._imitates = config.model.path is None and codec.shown_tokens is not None and self._k > 1
        self._teacher: Teacher | None = None
        if config.sft.distillation and (codec.item_tokens.lengths == 1).all():
            known = np.load(features, allow_pickle=False) if features.is_file() else None
            rows = sequences.rows(np.arange(len(sequences)))
            self._teacher = Teacher(rows, known, codec.item_tokens.flat, self._repeats, config.sft.distillation)

    def __len__(self) -> int:
        return len(self._chosen)

    def of_step(self, step: int, rank: int, ranks: int) -> tuple[PromptLists, PromptLists | None]:
        """A rank's share of a step's windows; some of them as prompts with lists, where lists have own tokens."""
        numbers = np.arange(step * self._batch, (step + 1) * self._batch)[rank::ranks]
        rows = self._chosen[prompts_of_step(self._seed, step, len(self), self._batch)][rank::ranks]
        turns = numbers // len(self)
        passes = [(rows[turns == turn], int(turn)) for turn in np.unique(turns)]
        parts = [self._windows.cut(self._sequences.rows, some, turn) for some, turn in passes]
        items = Ragged.concat(parts) if parts else Ragged.of([])
        soft = None
        if self._teacher is not None:
            soft = self._teacher.of([self._windows.bounds(some, turn) for some, turn in passes])
        rng = np.random.default_rng([self._seed, step, rank])
        sequences = training_rows(self._codec, items, rng.integers(1, items.lengths), self._repeats, soft)
        if not self._imitates:
            return sequences, None
        some = items.take(np.arange(min((len(items) + 1) // 2, MOST_LISTS)))
        splits = rng.integers(1, np.minimum(some.lengths, self._history) + 1)
        places = rng.permuted(np.tile(np.arange(1, self._k), (len(some), 1)), axis=1)[:, :PLACES]
        return sequences, continued_lists(self._codec, some, splits, places)


def _step(learner: DeepSpeedLearner, examples: _Examples, step: int, lr: float) -> tuple[float, str | None]:
    """The mean loss, and what was not finite where there was no step."""
    share, lists = examples.of_step(step, learner.rank, learner.world_size)
    tokens = float(learner.sum_over_ranks(torch.tensor(float(share.decision.sum()))))
    total = torch.zeros(1, dtype=torch.float64)

    def loss(_: MicroBatch, logprob: torch.Tensor) -> torch.Tensor:
        total.add_(-logprob.detach().double().sum().cpu())
        return -logprob / tokens

    imitating = None
    if lists is not None:
        places = float(learner.sum_over_ranks(torch.tensor(float(lists.decision.sum() - len(lists)))))
        imitating = lists, IMITATION / places
    stepped = learner.update(share, loss, lr, imitating)
    return float(learner.sum_over_ranks(total)) / tokens, stepped.not_finite


def _finished(state: SftState, config: Config) -> bool:
    late = config.sft.max_seconds is not None and state.seconds >= config.sft.max_seconds
    return late or state.patience.over(config.sft.patience)


def _restore(learner: DeepSpeedLearner) -> SftState:
    """The newest checkpoint's state, or that of a new run."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return SftState(layout=learner.layout)
    with checkpoint.as_directory() as folder:
        learner.load_state(Path(folder) / OPTIMIZER)
        return SftState.of(read_json(Path(folder) / PROGRESS) or {}, learner.layout)


def _save(
    saver: Saver, learner: DeepSpeedLearner, codec: Codec, state: SftState, ndcg: float | None, bucket_bytes: int
) -> None:
    """``ndcg``: None where nothing was validated at this step; such a checkpoint is never the best one."""
    saver.finish()
    weights = full_state(learner.model, bucket_bytes, keep=learner.rank == 0)
    optimizer, progress = learner.copy_state(), asdict(state)

    def write(folder: Path) -> None:
        optimizer(folder / OPTIMIZER)
        if learner.rank == 0:
            save_policy(
                folder / "policy",
                learner.model,
                weights,
                codec.tokenizer,
                codec=codec.fingerprint(),
                policy="sft",
                step=progress["step"],
            )
            write_json(folder / PROGRESS, progress)

    saver.start(state.step, {} if ndcg is None else {"validation_ndcg": ndcg}, write)
