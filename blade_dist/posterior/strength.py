"""``tau: auto``: how much the prior is worth, read off the groups themselves. Pure numpy.

The prior says that a share ``F_j`` of a prompt's lists is at or below its reference reward ``q_j``; the group says that
``k_j`` of ``G`` are. If the prior were worth m lists, ``k_j`` would be Beta-binomial with ``a = m F_j + s`` and
``b = m (1 - F_j) + s`` (Griffiths, 1973). The m that makes a step's counts most likely is high while the policy still
writes what the reference writes, and falls as it moves away; with the evidence at its natural weight of 1 per list,
``tau = G / (m + 2s + G)`` rises. The paper leaves tau to hand tuning; this is ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from blade_dist.posterior.beta import Array, BetaSettings

GRID = np.geomspace(0.1, 10_000.0, 101)
"""Strengths m that are weighed against each other."""

MEMORY = 0.9
"""How much of the likelihood of earlier steps counts at the next: about the last ten steps."""


def level_counts(rewards: Array, reference: Array) -> NDArray[np.int64]:
    """How often each pair (share of the other references, share of the group) was seen, ``[M, G + 1]``.

    At every reference reward ``q_j``: row = how many of the other ``M - 1`` are ``<= q_j``, column = how many of the
    group are. A reference does not count itself, so that reference lists and group are both fresh.

    Args:
        rewards: ``[B, G]`` the groups'.
        reference: ``[B, M]`` the reference's, M at least 2.
    """
    references, group = reference.shape[1], rewards.shape[1]
    others = np.stack([(reference <= level).sum(axis=1) for level in reference.T[:, :, None]], axis=1) - 1
    below = np.stack([(rewards <= level).sum(axis=1) for level in reference.T[:, :, None]], axis=1)
    pairs = np.bincount((others * (group + 1) + below).ravel(), minlength=references * (group + 1))
    return pairs.reshape(references, group + 1)


def log_likelihood(counts: NDArray[np.int64], smoothing: float) -> Array:
    """Log-likelihood of each m of :data:`GRID`, ``[grid]``, up to what does not depend on m.

    Args:
        counts: of :func:`level_counts`.
        smoothing: s.
    """
    references, columns = counts.shape
    group = columns - 1
    level, below = np.nonzero(counts)
    share = level / max(1, references - 1)
    a, b = (GRID[:, None] * part + smoothing for part in (share, 1 - share))
    each = betaln(below + a, group - below + b) - betaln(a, b)
    return each @ counts[level, below].astype(np.float64)


def seen(likelihood: Array, rewards: Array, reference: Array, settings: BetaSettings) -> Array:
    """``likelihood`` ``[grid]`` with a step's groups taken in.

    Args:
        likelihood: of each m of :data:`GRID`, by the steps before.
        rewards: ``[B, G]``.
        reference: ``[B, M]``; cold prompts, with lists that are not a number, are left out.
        settings: s.
    """
    warm = ~np.isnan(reference).any(axis=1)
    return likelihood + log_likelihood(level_counts(rewards[warm], reference[warm]), settings.smoothing)


def with_likeliest(settings: BetaSettings, likelihood: Array, group: int) -> BetaSettings:
    """``settings`` with the likeliest m, and the tau at which each list of a group of ``group`` weighs 1.

    While nothing was seen that would prefer one m to another, it is that of ``settings``.
    """
    m = float(GRID[likelihood.argmax()]) if np.ptp(likelihood) else settings.strength
    return replace(settings, strength=m, tau=group / (m + 2 * settings.smoothing + group))
