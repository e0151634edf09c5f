"""One step of alignment: log-probs, objective, gradient, numbers to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blade_dist.batches import LearnBatch
from blade_dist.catalog.legality import Legality
from blade_dist.learners.engine import DeepSpeedLearner
from blade_dist.learners.objective import TokenTerms, policy_terms
from blade_dist.learners.sequences import MicroBatch, Sequences, legal_tokens
from blade_dist.settings import LearnerSettings


@dataclass(frozen=True)
class StepStats:
    """Means over all decision tokens of all ranks."""

    loss: float
    kl: float
    """k3 estimate, nats per token."""
    clip_fraction: float
    importance_weight: float
    grad_norm: float
    rollout_gap: float
    """Largest |learner - engine| log-prob over all tokens, before the step."""


class Aligner:
    """Policy, reference and the objective between them."""

    def __init__(
        self,
        learner: DeepSpeedLearner,
        reference: Callable[[Sequences], Tensor],
        settings: LearnerSettings,
        kl_coef: float,
        legality: Legality | None,
    ) -> None:
        """Joins them.

        Args:
            learner: holds the policy.
            reference: the reference policy's log-probs (nats) of list tokens, ``[T]``, without gradient; collective.
            settings: of the objective.
            kl_coef: weight of the KL to the reference.
            legality: of constrained lists, None where they are free text.
        """
        self._legality = legality
        self._learner = learner
        self._reference = reference
        self._settings = settings
        self._kl_coef = kl_coef

    def learn(self, batch: LearnBatch, lr: float) -> StepStats:
        """``learner.epochs`` optimizer steps on one batch (collective)."""
        sequences = self._sequences(batch)
        rollout = torch.from_numpy(batch.rollouts.logprobs)
        advantage = _per_token(batch)
        reference = self._reference(sequences)
        prox = torch.zeros_like(rollout)
        totals = torch.zeros(4, dtype=torch.float64)
        grad_norm = 0.0
        for epoch in range(self._settings.epochs):

            def loss(micro: MicroBatch, logprob: Tensor, first: bool = epoch == 0) -> Tensor:
                where = micro.flat
                if first:  # the policy at the start of the step is the one that is differentiated
                    prox[where] = logprob.detach().float().cpu()
                terms = policy_terms(
                    logprob,
                    *(values[where].to(logprob.device) for values in (prox, rollout, reference, advantage)),
                    clip_ratio=self._settings.clip_ratio,
                    truncation=self._settings.truncation,
                    kl_coef=self._kl_coef,
                )
                totals.add_(_sums(terms))
                return terms.loss / batch.decision_tokens

            grad_norm = self._learner.update(sequences, loss, lr)
        gap = float((prox - rollout).abs().max()) if len(prox) else 0.0
        means = self._learner.sum_over_ranks(totals) / (batch.decision_tokens * self._settings.epochs)
        loss_mean, kl, clip_fraction, weight = means.tolist()
        return StepStats(loss_mean, kl, clip_fraction, weight, grad_norm, self._learner.max_over_ranks(gap))

    def _sequences(self, batch: LearnBatch) -> Sequences:
        owner = np.repeat(np.arange(len(batch.prompt_tokens)), batch.group_size)
        legal = legal_tokens(self._legality, batch.rollouts.tokens, batch.history.take(owner))
        return Sequences(batch.prompt_tokens, batch.rollouts.tokens, owner, legal)


def _sums(terms: TokenTerms) -> Tensor:
    columns = (terms.loss, terms.kl, terms.clipped, terms.weight)
    return torch.stack([column.detach().double().sum().cpu() for column in columns])


def _per_token(batch: LearnBatch) -> Tensor:
    lengths = batch.rollouts.tokens.lengths
    return torch.from_numpy(np.repeat(batch.estimates.advantage.reshape(-1), lengths).astype(np.float32))
