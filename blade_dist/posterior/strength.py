"""``tau: auto``: how much the prior is worth, estimated from the groups themselves. Pure numpy.

By the prior a share ``F_j`` of a prompt's lists is at or below its reference reward ``q_j``; of the group ``k_j`` of
``G`` are. If the prior were worth m lists, ``k_j`` would be Beta-binomial with ``a = m F_j + s`` and
``b = m (1 - F_j) + s`` (Griffiths, 1973). The m that makes a step's counts most likely is high while the policy still
writes what the reference writes, and falls as it moves away; with the evidence at its natural weight of 1 per list,
``tau = G / (m + 2s + G)`` rises. The paper leaves tau to hand tuning; this is ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import betaln

from blade_dist.posterior.beta import Array, BetaSettings

GRID = np.geomspace(0.1, 10_000.0, 101)
"""Strengths m that are compared."""

MEMORY = 0.9
"""How much of the likelihood of earlier steps counts at the next: about the last ten steps (1 / (1 - 0.9)), so that tau
follows a policy that moves away, and one step's noise does not move it much."""


def level_counts(rewards: Array, reference: Array, pooled: Array | None = None) -> Array:
    """How often each pair (share of the other references, share of the group) was seen, ``[M, G + 1]``.

    At every reference reward ``q_j``: row = how many of the other ``M - 1`` are ``<= q_j``, column = how many of the
    group are. A reference does not count itself, so that reference lists and group are both fresh.

    Each list that a cold prompt lacks counts as the pooled distribution would, as in
    :func:`~blade_dist.posterior.beta.prior_share`; where that is between two rows, they share the pair.

    Args:
        rewards: ``[B, G]`` the groups'.
        reference: ``[B, M]`` the reference's, M at least 2; not a number for lists that are lacking.
        pooled: ``[S]`` rewards of all prompts' reference lists, ascending; needed where there are cold prompts.
    """
    references, group = reference.shape[1], rewards.shape[1]
    known = ~np.isnan(reference)
    # -1: each level counts itself; comparisons with lacking lists are false, so that they are in no count
    others = np.stack([(reference <= level).sum(axis=1) for level in reference.T[:, :, None]], axis=1) - 1.0
    below = np.stack([(rewards <= level).sum(axis=1) for level in reference.T[:, :, None]], axis=1)
    if pooled is not None:
        lacking = (~known).sum(axis=1, keepdims=True)
        others += lacking * np.searchsorted(pooled, reference, side="right") / len(pooled)
    others, below = others[known], below[known]
    row = others.astype(np.int64)
    # a table [row, column] as one flat axis; a pair between two rows (others = 2.3) adds 0.7 to row 2 and 0.3 to row 3
    cell, size = row * (group + 1) + below, (references + 1) * (group + 1)
    pairs = np.zeros(size)
    pairs += np.bincount(cell, row + 1 - others, size)
    pairs += np.bincount(cell + group + 1, others - row, size)
    return pairs.reshape(references + 1, group + 1)[:references]


def log_likelihood(counts: Array, smoothing: float) -> Array:
    """Log-likelihood of each m of :data:`GRID`, ``[grid]``, up to what does not depend on m.

    Args:
        counts: of :func:`level_counts`.
        smoothing: s.
    """
    references, columns = counts.shape
    group = columns - 1
    level, below = np.nonzero(counts)  # few pairs occur: G + 1 columns, but most groups are alike
    share = level / max(1, references - 1)
    a, b = (GRID[:, None] * part + smoothing for part in (share, 1 - share))
    each = betaln(below + a, group - below + b) - betaln(a, b)
    return each @ counts[level, below]


def updated_likelihood(
    likelihood: Array, rewards: Array, reference: Array, settings: BetaSettings, pooled: Array | None = None
) -> Array:
    """``likelihood`` ``[grid]`` after a step's groups.

    Args:
        likelihood: of each m of :data:`GRID`, by the steps before.
        rewards: ``[B, G]``.
        reference: ``[B, M]``, as :func:`level_counts` takes it; prompts without any list change nothing.
        settings: s.
        pooled: for cold prompts.
    """
    return likelihood + log_likelihood(level_counts(rewards, reference, pooled), settings.smoothing)


def with_likeliest(settings: BetaSettings, likelihood: Array, group: int) -> BetaSettings:
    """``settings`` with the likeliest m, and the tau at which each list of a group of ``group`` weighs 1.

    While nothing was seen that would prefer one m to another, it is that of ``settings``.
    """
    m = float(GRID[likelihood.argmax()]) if np.ptp(likelihood) else settings.strength
    return replace(settings, strength=m, tau=group / (m + 2 * settings.smoothing + group))
