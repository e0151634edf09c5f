"""The estimator in an actor: one for the whole run.

Ray starts one that died again, without its memory. It then answers nothing: the learners fail, start again from their
last checkpoint, and restore it with that. So no evidence is lost, and none counts twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from blade_dist.batches import Estimates, Rewards
from blade_dist.posterior.beta import BetaSettings
from blade_dist.posterior.constraint import Constraints
from blade_dist.posterior.estimator import Estimator
from blade_dist.posterior.prior import Prior
from blade_dist.posterior.targets import TARGETS
from blade_dist.settings import Config


class _StoredEstimator(Estimator):
    """:class:`Estimator` over the prior at ``path``."""

    def __init__(self, path: Path, stamp: dict[str, Any], config: Config) -> None:
        posterior = config.posterior
        settings = BetaSettings(
            tau=0.0 if posterior.tau == "auto" else posterior.tau,
            strength=config.prior_strength,
            smoothing=posterior.smoothing,
            ties=posterior.ties,
            proxy=posterior.proxy,
            bon_n=config.learner.bon_n,
        )
        prior = Prior.load(path, stamp)
        auto = posterior.tau == "auto" and TARGETS[config.target].uses_evidence
        limits = Constraints.of(config.reward.at_least, config.reward.at_most, config.reward.multiplier_lr)
        renews = config.refresh_every is not None
        super().__init__(prior, settings, config.target, config.advantage.scale, posterior.carry, auto, limits, renews)
        self._restored = False

    def restore(self, state: bytes | None, attempt: int) -> None:
        super().restore(state, attempt)
        self._restored = True

    def estimate(self, attempt: int, step: int, rewards: Rewards, anchor: Rewards | None = None) -> Estimates:
        self._check_restored()
        return super().estimate(attempt, step, rewards, anchor)

    def refresh(self, attempt: int, step: int, prompts: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        self._check_restored()
        super().refresh(attempt, step, prompts, rewards)

    def state(self, step: int) -> bytes:
        self._check_restored()
        return super().state(step)

    def _check_restored(self) -> None:
        if not self._restored:
            raise RuntimeError("the estimator has died and was started again: its evidence is that of a checkpoint")


EstimatorActor: Any = ray.remote(concurrency_groups={"life": 1})(_StoredEstimator)
