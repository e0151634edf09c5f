"""One step of alignment: log-probs, objective, gradient, numbers to report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blade_dist.batches import LearnBatch, Ragged
from blade_dist.catalog.legality import Legality
from blade_dist.learners.objective import TokenTerms, policy_terms
from blade_dist.learners.packing import MicroBatch, PromptLists, legal_tokens
from blade_dist.learners.zero import DeepSpeedLearner, Stepped
from blade_dist.settings import LearnerSettings


@dataclass(frozen=True)
class StepStats:
    """Means over all decision tokens of all ranks."""

    loss: float
    kl: float | None
    """k3 estimate of the KL to the reference, nats per token; None where no reference is run."""
    clip_fraction: float
    importance_weight: float
    grad_norm: float
    rollout_gap: float
    """Largest |learner - engine| log-prob over all tokens, before the step."""
    not_finite: str | None = None
    """Why there was no step, see :class:`~blade_dist.learners.zero.Stepped`; the numbers need not be finite then."""

    @property
    def numbers(self) -> dict[str, float]:
        """Those that were measured and are finite, by name."""
        measured = {name: value for name, value in asdict(self).items() if isinstance(value, float)}
        return {name: value for name, value in measured.items() if math.isfinite(value)}


@dataclass(frozen=True)
class StepTokens:
    """All lists of a step, ``n`` with ``T`` tokens: each prompt's group, and the list to imitate, if any."""

    lists: Ragged
    """int32, ``n`` rows."""
    owner: NDArray[np.int64]
    """``[n]`` each list's prompt, ascending."""
    rollout: Tensor
    """``[T]`` log-prob (nats) as the engine reported it."""
    advantage: Tensor
    """``[T]`` of the token's list; 0 in a list to imitate."""
    on_policy: Tensor
    """bool ``[T]`` whether the policy wrote the list."""


def step_tokens(batch: LearnBatch) -> StepTokens:
    """The tokens of the batch, group after group, each followed by the list to imitate.

    Two prompts with groups of two and a list to imitate each: the lists ``x0 x1 y0 y1`` and ``x* y*`` have the owners
    ``0 0 1 1`` and ``0 1``; sorted by owner (stable) they are ``x0 x1 x* y0 y1 y*``. What came from before place 4 was
    written by the policy.
    """
    prompts = np.arange(len(batch.prompt_tokens))
    parts = [(batch.rollouts, np.repeat(prompts, batch.group_size), batch.estimates.advantage.reshape(-1))]
    if batch.imitated is not None:
        parts.append((batch.imitated, prompts, np.zeros(len(prompts), np.float32)))
    owner = np.concatenate([of_list for _, of_list, _ in parts])
    order = np.argsort(owner, kind="stable")
    lists = Ragged.concat([lists.tokens for lists, _, _ in parts]).take(order)
    logprobs = Ragged.concat([Ragged(lists.logprobs, lists.tokens.offsets) for lists, _, _ in parts]).take(order)
    advantage = np.concatenate([of_list for _, _, of_list in parts])[order]
    on_policy = order < len(batch.rollouts.tokens)
    return StepTokens(
        lists,
        owner[order],
        torch.from_numpy(logprobs.flat),
        torch.from_numpy(np.repeat(advantage, lists.lengths).astype(np.float32)),
        torch.from_numpy(np.repeat(on_policy, lists.lengths)),
    )


class PolicyUpdate:
    """The policy's update on one step's batch.

    With D decision tokens of all B groups of G lists, hence ``L = D / (B G)`` per list, the loss is

        ``(1 / D) (sum over the groups' tokens of own_share * surrogate + kl_coef * kl
        + G (1 - own_share) * sum over the imitated lists' tokens of -log pi)``,

    which is ``1 / L`` times: the mean over the groups' lists of what they sum to, plus ``1 - own_share`` times the mean
    over the B imitated lists of ``-log pi(list)``. Without imitated lists it is the mean over decision tokens.
    Surrogate and KL: :func:`~blade_dist.learners.objective.policy_terms`.
    """

    def __init__(
        self,
        learner: DeepSpeedLearner,
        reference: Callable[[PromptLists], Tensor] | None,
        settings: LearnerSettings,
        kl_coef: float,
        legality: Legality | None,
        own_share: float = 1.0,
    ) -> None:
        """Joins policy, reference and objective.

        Args:
            learner: holds the policy.
            reference: the reference policy's log-probs (nats) of list tokens, ``[T]``, without gradient; collective.
                None where the KL has no weight: it is not measured then.
            settings: of the objective.
            kl_coef: weight of the KL to the reference.
            legality: of constrained lists, None where they are free text.
            own_share: of the objective, that the policy's own lists have; lists to imitate have the rest.

        Raises:
            ValueError: a KL with a weight, and no reference.
        """
        if reference is None and kl_coef:
            raise ValueError(f"a KL of weight {kl_coef} needs a reference")
        self._legality = legality
        self._learner = learner
        self._reference = reference
        self._settings = settings
        self._kl_coef = kl_coef
        self._own_share = own_share

    def learn(self, batch: LearnBatch, lr: float) -> StepStats:
        """``learner.epochs`` optimizer steps on this rank's share of the batch (collective).

        The first one that can't be taken, see :meth:`~blade_dist.learners.zero.DeepSpeedLearner.update`, is the last.
        """
        tokens = step_tokens(batch)
        sequences = self._sequences(batch, tokens)
        rollout, on_policy = tokens.rollout, tokens.on_policy
        advantage = self._own_share * tokens.advantage
        imitation = batch.group_size * (1 - self._own_share)
        reference = None if self._reference is None else self._reference(sequences)
        prox = torch.zeros_like(rollout)
        per_token = (prox, rollout, reference, advantage)
        totals = torch.zeros(4, dtype=torch.float64)
        stepped, epochs = Stepped(0.0, None), 0
        for epoch in range(self._settings.epochs):

            def loss(micro: MicroBatch, logprob: Tensor, first: bool = epoch == 0) -> Tensor:
                where = micro.flat
                if first:
                    # In the first epoch every micro-batch comes before the optimizer's step, so that the policy that is
                    # differentiated is still pi_prox: no forward of its own is needed for it.
                    prox[where] = logprob.detach().float().cpu()
                written = on_policy[where]
                of_policy = (None if v is None else v[where[written]].to(logprob.device) for v in per_token)
                terms = policy_terms(
                    logprob[written],
                    *of_policy,
                    clip_ratio=self._settings.clip_ratio,
                    truncation=self._settings.truncation,
                    kl_coef=self._kl_coef,
                )
                imitated = -imitation * logprob[~written]
                totals.add_(_sums(terms, imitated))
                return torch.cat([terms.loss, imitated]) / batch.decision_tokens

            stepped, epochs = self._learner.update(sequences, loss, lr), epoch + 1
            if stepped.not_finite is not None:
                break
        gap = float((prox - rollout)[on_policy].abs().max()) if on_policy.any() else 0.0
        means = self._learner.sum_over_ranks(totals) / (batch.decision_tokens * epochs)
        loss_mean, kl, clip_fraction, weight = means.tolist()
        measured = kl if reference is not None else None
        gap = self._learner.max_over_ranks(gap)
        return StepStats(loss_mean, measured, clip_fraction, weight, stepped.norm, gap, stepped.not_finite)

    def _sequences(self, batch: LearnBatch, tokens: StepTokens) -> PromptLists:
        legal = legal_tokens(self._legality, tokens.lists, batch.excluded.take(tokens.owner))
        return PromptLists(batch.prompt_tokens, tokens.lists, tokens.owner, legal)


def _sums(terms: TokenTerms, imitated: Tensor) -> Tensor:
    """``[4]`` float64, of loss, KL (0 where it is not measured), clipped tokens and weights."""
    kl = torch.zeros(()) if terms.kl is None else terms.kl
    columns = (torch.cat([terms.loss, imitated]), kl, terms.clipped, terms.weight)
    return torch.stack([column.detach().double().sum().cpu() for column in columns])
