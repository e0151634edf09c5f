"""The estimator in an actor: one for the whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

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


EstimatorActor: Any = ray.remote(_StoredEstimator)
