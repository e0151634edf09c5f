"""The Beta posterior of a prompt's reward CDF, and the proxy reward that it gives. Pure numpy.

The paper (arXiv 2605.04559) gives the idea in public text: a Beta posterior in closed form over static prior and
on-policy evidence, whose CDF becomes the proxy reward. Its exact formula is not public to us; what stands here is our
reading of it, kept in one small function that is easy to replace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

Array = NDArray[np.float64]
Ties = Literal["le", "mid", "lt", "exact"]
Proxy = Literal["log_mean", "mean_log"]


@dataclass(frozen=True)
class BetaSettings:
    """What shapes the posterior."""

    tau: float
    """The evidence's share of the posterior mean, in [0, 1); 0 is the static baseline."""
    strength: float
    """m: pseudo-count of the prior."""
    smoothing: float = 0.5
    """s: added to both sides (1/2 is Jeffreys; keeps log F finite)."""
    ties: Ties = "le"
    proxy: Proxy = "log_mean"
    bon_n: int = 16
    """N of the Best-of-N; read by ``exact`` ties only."""


@dataclass(frozen=True)
class Evidence:
    """Weighted rewards of each prompt, next to the group's own: ``values`` and ``weights``, ``[B, E]``."""

    values: Array
    weights: Array


def share_at_or_below(rewards: Array, sample: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Weighted share of ``sample`` that is ``<= r`` and ``< r``, row by row.

    Args:
        rewards: ``[B, G]``.
        sample: ``[B, S]``, any order.
        weights: ``[B, S]``, each row of positive sum; None is equal weights.

    Returns:
        (share <= r, share < r), each ``[B, G]``.
    """
    order = np.argsort(sample, axis=1, kind="stable")
    sorted_sample = np.take_along_axis(sample, order, axis=1)
    if weights is None:
        mass = np.broadcast_to(np.arange(sample.shape[1] + 1) / sample.shape[1], (len(sample), sample.shape[1] + 1))
    else:
        running = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
        mass = np.concatenate([np.zeros((len(sample), 1)), running], axis=1) / running[:, -1:]
    upper, lower = _ranks(rewards, sorted_sample)
    return np.take_along_axis(mass, upper, axis=1), np.take_along_axis(mass, lower, axis=1)


def posterior(prior_share: Array, evidence_share: Array, settings: BetaSettings) -> tuple[Array, Array]:
    """Parameters (a, b) of the Beta over F(r).

    Prior ``Beta(m * Fref + s, m * (1 - Fref) + s)``; each of ``G`` pieces of evidence weighs
    ``w = tau * (m + 2s) / ((1 - tau) * G)``, so that tau is exactly the evidence's share of the posterior mean
    ``F = (m * Fref + s + w * k) / (m + 2s + w * G)`` with ``k = G * evidence_share`` (so that G cancels).

    Args:
        prior_share: ``[B, G]`` Fref, the share of reference rewards at or below each reward.
        evidence_share: ``[B, G]`` the same of the evidence.
        settings: tau, m, s.
    """
    m, s, tau = settings.strength, settings.smoothing, settings.tau
    mass = tau * (m + 2 * s) / (1 - tau)  # w * G
    a = m * prior_share + s + mass * evidence_share
    b = m * (1 - prior_share) + s + mass * (1 - evidence_share)
    return a, b


def proxy_reward(rewards: Array, reference: Array, settings: BetaSettings, carried: Evidence | None = None) -> Array:
    """Proxy reward R of every list of every group, ``[B, G]``.

    ``log E[F]`` or ``E[log F] = digamma(a) - digamma(a + b)`` under the posterior; with ``ties: exact``
    ``log((F^N - F_^N) / (N (F - F_))) / (N - 1)``, Best-of-N's own density ratio at a level of ties
    (F_: posterior mean of P(reward strictly below)), which tends to ``log F`` without ties.

    Args:
        rewards: ``[B, G]`` the group's rewards: also the evidence.
        reference: ``[B, M]`` rewards of the reference's lists.
        settings: see :class:`BetaSettings`.
        carried: earlier evidence; with the group's it keeps the same total mass.
    """
    prior = share_at_or_below(rewards, reference)
    if carried is None:
        evidence = share_at_or_below(rewards, rewards)
    else:
        values = np.concatenate([rewards, carried.values], axis=1)
        evidence = share_at_or_below(rewards, values, np.concatenate([np.ones_like(rewards), carried.weights], axis=1))
    at, below = (posterior(p, e, settings) for p, e in zip(prior, evidence, strict=True))
    if settings.ties == "exact":
        return _exact(_mean(*at), _mean(*below), settings.bon_n)
    picked = {"le": (1.0, 0.0), "mid": (0.5, 0.5), "lt": (0.0, 1.0)}[settings.ties]
    a, b = (picked[0] * x + picked[1] * y for x, y in zip(at, below, strict=True))
    return np.log(_mean(a, b)) if settings.proxy == "log_mean" else digamma(a) - digamma(a + b)


def _mean(a: Array, b: Array) -> Array:
    return a / (a + b)


def _exact(at: Array, below: Array, n: int) -> Array:
    """``log((F^N - F_^N) / (N (F - F_))) / (N - 1)``, as ``log F + log(sum_j q^j / N) / (N - 1)``, q = F_ / F."""
    q = below / at
    series = np.zeros_like(q)
    for _ in range(n):  # Horner: 1 + q + ... + q^(N-1), exact also where F and F_ are almost equal
        series = 1 + q * series
    return np.log(at) + np.log(series / n) / (n - 1)


def _ranks(rewards: Array, sorted_sample: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of each sorted row are ``<= r`` and ``< r``, each ``[B, G]``."""
    upper = np.empty(rewards.shape, dtype=np.int64)
    lower = np.empty(rewards.shape, dtype=np.int64)
    for row in range(len(rewards)):
        upper[row] = sorted_sample[row].searchsorted(rewards[row], side="right")
        lower[row] = sorted_sample[row].searchsorted(rewards[row], side="left")
    return upper, lower
