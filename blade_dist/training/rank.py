"""The learner's part of a step: the models that a rank holds, and how it learns from its share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from blade_dist.batches import LearnBatch
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import Legality
from blade_dist.learners.adapter import add_adapter
from blade_dist.learners.anchor import Anchor
from blade_dist.learners.objective import learning_rate
from blade_dist.learners.packing import PromptLists
from blade_dist.learners.policy import Policy, choose_attention, load_model
from blade_dist.learners.update import PolicyUpdate, StepStats
from blade_dist.learners.zero import DeepSpeedLearner
from blade_dist.settings import Config
from blade_dist.store.run import RunPaths
from blade_dist.training.publish import ServedModel
from blade_dist.weights.gather import source


class Rank:
    """One rank's policy, its reference or anchor, and the update between them. Methods are collective."""

    def __init__(self, config: Config, paths: RunPaths) -> None:
        """Loads the models; the policy starts as the reference."""
        self.config = config
        self.paths = paths
        self.codec = Codec.load(paths.codec)
        self.legality = Legality.load(config.lists, self.codec, paths.trie, paths.catalog)
        policy = self._load()
        if config.learner.lora is not None:
            add_adapter(policy.model, config.learner.lora)
        self.learner = DeepSpeedLearner(policy, config.learner, config.model.dtype, self.codec.pad)
        self._buckets = source(self.learner.model, config.weights.bucket_mb)
        frozen = self._frozen_reference()
        self.anchor = Anchor(frozen, config.bond.eta) if frozen is not None and config.target == "bond" else None
        self._update = PolicyUpdate(
            self.learner,
            self._reference_logprobs(frozen),
            config.learner,
            config.kl_coef,
            self.legality,
            config.own_share,
        )

    @property
    def policy_model(self) -> ServedModel:
        """The policy, as engines are to serve it."""
        return ServedModel(self._buckets, self.learner.logprobs)

    @property
    def anchor_model(self) -> ServedModel | None:
        """The anchor, as engines are to serve it; None without one."""
        if self.anchor is None:
            return None
        policy = self.anchor.policy
        buckets = source(policy.model, self.config.weights.bucket_mb)
        return ServedModel(buckets, partial(self.learner.logprobs, policy=policy))

    def learn(self, batch: LearnBatch, step: int) -> StepStats:
        """The step's update of the policy, which the anchor (where there is one) follows."""
        stats = self._update.learn(batch, self.learning_rate(step))
        if self.anchor is not None:
            self.anchor.follow(self._buckets())
        return stats

    def learning_rate(self, step: int) -> float:
        """Of this step."""
        learner, total, peak = self.config.learner, self.config.train.steps, self.config.learner_lr
        return learning_rate(step, peak=peak, total=total, warmup=learner.warmup_steps, schedule=learner.schedule)

    def _frozen_reference(self) -> Policy | None:
        """The reference with weights to itself; None where nothing reads it."""
        if not self.config.loads_reference:
            return None
        frozen = self._load().to(self.learner.device).requires_grad_(False)
        if self.learner.shares_prefix:
            choose_attention(frozen)
        return frozen

    def _reference_logprobs(self, frozen: Policy | None) -> Callable[[PromptLists], Tensor] | None:
        """What the KL is measured to; None where it has no weight, so that nothing is run for it."""
        if self.config.kl_coef == 0:
            return None
        return self.learner.base_logprobs if frozen is None else partial(self.learner.logprobs, policy=frozen)

    def _load(self) -> Policy:
        """The reference's weights."""
        return Policy(load_model(self.paths.reference, self.config.model), self.config.rollout.temperature)
