"""A rank's part of the alignment's checkpoint: all that a resumed run needs to repeat itself, as one unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from safetensors.torch import save_file

from blade_dist.cluster.runtime import RETRIES
from blade_dist.learners.adapter import save_adapter
from blade_dist.store.checkpoints import OPTIMIZER, PROGRESS, Layout
from blade_dist.store.files import read_json, write_json
from blade_dist.store.policy import save_policy
from blade_dist.training.collective import from_first
from blade_dist.training.patience import Patience
from blade_dist.training.pipeline import VALIDATION, Roles
from blade_dist.training.rank import Rank
from blade_dist.training.saving import Saver
from blade_dist.training.skips import Skips
from blade_dist.weights.gather import full_state, trained_state

ANCHOR = "anchor.safetensors"
"""The anchor's weights, in a checkpoint."""


@dataclass
class AlignState:
    """How far the alignment is: ``progress.json`` of a checkpoint."""

    attempt: int = 0
    """Number of the group of learners; every restart is a new one."""
    step: int = 0
    """Steps done."""
    layout: Layout = field(default_factory=Layout)
    patience: Patience = field(default_factory=Patience)
    skips: Skips = field(default_factory=Skips)


class RankCheckpoint:
    """Saves and restores a rank, and on rank 0 what belongs to all ranks. Methods are collective.

    A checkpoint holds ``optimizer/`` (the weights in float32 and their moments, a file per rank), ``rng-<rank>.npy``,
    ``policy/`` (the whole weights, which are the stage's result), ``anchor.safetensors`` where there is an anchor,
    ``estimator.arrow`` and ``progress.json``. Any number of ranks and any ZeRO stage can go on from it; of more ranks
    than before several take the random numbers of one. Estimator and learner are saved together, because a replay of
    steps with a newer estimator would count their evidence twice. What makes the folder whole is :class:`Saver`'s.
    """

    def __init__(self, rank: Rank, saver: Saver, pipeline: Any, roles: Roles, tracker: Any) -> None:
        """Of ``rank``; ``roles`` work for ``pipeline``, which is an actor's handle, as ``tracker`` is."""
        self._rank = rank
        self._saver = saver
        self._pipeline = pipeline
        self._roles = roles
        self._tracker = tracker

    def restore(self) -> AlignState:
        """The newest checkpoint's state, or that of a new run, with the number of a new attempt."""
        state, estimates = AlignState(layout=self._rank.learner.layout), None
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as name:
                state, estimates = self._read(Path(name))
        state.attempt = from_first(lambda: self._begin(state.attempt, estimates))
        return state

    def save(self, state: AlignState, validation: dict[str, float]) -> None:
        """Begins a new checkpoint, see :class:`Saver`; the step log is on disk before it is one.

        Args:
            state: after the step.
            validation: numbers of the held-out prompts; empty where nothing is validated.

        Raises:
            FullDiskError: there is no room, for this one or the one before.
        """
        self._saver.finish()
        scored = {name: validation[name] for name in validation if name == VALIDATION}
        self._saver.start(state.step, scored, self._copied(state))

    def _copied(self, state: AlignState) -> Callable[[Path], None]:
        """Copies this rank's part to the CPU's memory; returns what writes the copy into a folder."""
        rank = self._rank
        bucket_bytes, first = rank.config.weights.bucket_mb * 2**20, rank.learner.rank == 0
        # gathering is collective, so that every rank takes part, though rank 0 alone keeps what it yields
        weights = full_state(rank.learner.model, bucket_bytes, keep=first)
        lora = rank.config.learner.lora
        adapter = {} if lora is None else trained_state(rank.learner.model, bucket_bytes, keep=first)
        anchor = rank.anchor.copy() if first and rank.anchor is not None else None
        # what is estimated after this step is not to be part of it
        estimates = ray.get(self._roles.estimator.state.remote(state.step)) if first else b""
        optimizer, random, progress = rank.learner.copy_state(), torch.get_rng_state().numpy(), asdict(state)

        def write(folder: Path) -> None:
            optimizer(folder / OPTIMIZER)
            np.save(folder / f"rng-{rank.learner.rank}.npy", random)
            if not first:
                return
            self._write_policy(folder / "policy", weights, progress["step"])
            if lora is not None:
                save_adapter(folder / "policy" / "adapter", adapter, lora, rank.paths.reference)
            if anchor is not None:
                save_file(anchor, folder / ANCHOR)
            (folder / "estimator.arrow").write_bytes(estimates)
            write_json(folder / PROGRESS, progress)
            ray.get(self._tracker.flush.remote(progress["step"]))

        return write

    def _read(self, folder: Path) -> tuple[AlignState, bytes]:
        """Loads the rank's part; returns the state, and the estimator's."""
        rank = self._rank
        saved = read_json(folder / PROGRESS) or {}
        rank.learner.load_state(folder / OPTIMIZER)
        if rank.anchor is not None:
            rank.anchor.load(folder / ANCHOR)
        source = rank.learner.rank % saved["layout"]["ranks"]
        torch.set_rng_state(torch.from_numpy(np.load(folder / f"rng-{source}.npy")))
        counts = Patience(**saved["patience"]), Skips(**saved.get("skips", {}))
        state = AlignState(saved["attempt"], saved["step"], rank.learner.layout, *counts)
        return state, (folder / "estimator.arrow").read_bytes()

    def _begin(self, saved_attempt: int, estimates: bytes | None) -> int:
        """Rank 0: a new attempt for the pipeline and the estimator; its number."""
        # the number first: by it the estimator refuses chains of older attempts that are still under way
        attempt = ray.get(self._pipeline.begin.options(max_task_retries=RETRIES).remote(saved_attempt, self._roles))
        ray.get(self._roles.estimator.restore.options(max_task_retries=RETRIES).remote(estimates, attempt))
        return int(attempt)

    def _write_policy(self, folder: Path, weights: dict[str, torch.Tensor], step: int) -> None:
        """Rank 0: the stage's result."""
        rank = self._rank
        save_policy(
            folder,
            rank.learner.model,
            weights,
            rank.codec.tokenizer,
            codec=rank.codec.fingerprint(),
            policy=rank.config.target,
            step=step,
        )
