"""The loss of a step, on flat arrays of decision tokens. Pure torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenTerms:
    """Per decision token ``[T]``: what is minimised, and what is reported."""

    loss: Tensor
    """``-min(ratio * A, clip(ratio) * A) * weight + kl_coef * kl``; its gradient is the policy gradient."""
    kl: Tensor | None
    """k3 estimate of KL(policy || reference), detached; None without a reference."""
    clipped: Tensor
    """1 where the clip binds, else 0."""
    weight: Tensor
    """Truncated importance weight of the sample."""


def policy_terms(
    logprob: Tensor,
    logprob_prox: Tensor,
    logprob_rollout: Tensor,
    logprob_ref: Tensor | None,
    advantage: Tensor,
    *,
    clip_ratio: float,
    truncation: float,
    kl_coef: float,
) -> TokenTerms:
    """Clipped surrogate with decoupled truncated importance sampling and a k3 KL penalty.

    Ratio ``pi / pi_prox`` is clipped as in PPO (Schulman et al., 2017); the weight
    ``min(pi_prox / pi_rollout, C)`` is detached (AReaL, 2025); KL is Schulman's k3,
    ``exp(d) - d - 1`` with ``d = log pi_ref - log pi``, whose expectation under pi is KL(pi || pi_ref).

    Args:
        logprob: ``[T]`` nats under the policy, with gradient.
        logprob_prox: ``[T]`` under the policy at the start of the step.
        logprob_rollout: ``[T]`` as the engine reported it.
        logprob_ref: ``[T]`` under the reference; None: no KL is measured, and none is in the loss.
        advantage: ``[T]`` the list's advantage at each of its tokens.
        clip_ratio: epsilon.
        truncation: C.
        kl_coef: weight of the KL.
    """
    ratio = torch.exp(logprob - logprob_prox)
    weight = torch.exp(logprob_prox - logprob_rollout).clamp(max=truncation).detach()
    free = ratio * advantage
    bound = ratio.clamp(1 - clip_ratio, 1 + clip_ratio) * advantage
    loss = -torch.minimum(free, bound) * weight
    clipped = (bound < free).float().detach()
    if logprob_ref is None:
        return TokenTerms(loss, None, clipped, weight)
    gap = logprob_ref - logprob
    kl = torch.exp(gap) - gap - 1
    return TokenTerms(loss + kl_coef * kl, kl.detach(), clipped, weight)


def learning_rate(step: int, *, peak: float, total: int, warmup: int, schedule: str) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up, then constant, linear or cosine to 0 at ``total``."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "linear":
        return peak * (1 - progress)
    return peak * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
