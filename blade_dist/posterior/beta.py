"""The Beta posterior of a prompt's reward CDF, and the proxy reward that it gives. Pure numpy.

The paper (arXiv 2605.04559) gives the idea in public text: a Beta posterior in closed form over static prior and
on-policy evidence, whose CDF becomes the proxy reward. Its exact formula is not public to us; what stands here is our
reading of it, kept in one small function that is easy to replace: :func:`posterior`.

``F(r) = P(r(x, y') <= r)`` with ``y'`` of the reference is a probability for each prompt and reward, so the belief
about it is a Beta. Best-of-N has density proportional to ``pi_ref(y|x) * F(r)^(N-1)``, which is why ``log F`` is the
reward.
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
    """Weighted rewards of each prompt, beside those of its group: ``values`` and ``weights``, ``[B, E]``."""

    values: Array
    weights: Array


def share(rewards: Array, sample: Array, weights: Array | None = None, *, strictly: bool = False) -> Array:
    """Weighted share of each row of ``sample`` that is ``<= r`` (``strictly``: ``< r``), ``[B, G]``.

    >>> share(np.array([[0.5, 0.9]]), np.array([[0.1, 0.5, 0.7, 0.8]]))
    array([[0.5, 1. ]])

    Every reward is compared with every value of its row's sample, one column of the sample at a time: for the usual
    sizes (S = 16 to 64) that is faster than to sort.

    Args:
        rewards: ``[B, G]``.
        sample: ``[B, S]``, any order.
        weights: ``[B, S]``, each row of positive sum; None is equal weights.
        strictly: leaves out what equals r.
    """
    counted = np.less if strictly else np.less_equal
    # transposed, so that numpy's inner loop runs over the B prompts and not over the few lists of one
    columns, below = np.ascontiguousarray(sample.T), np.ascontiguousarray(rewards.T)
    if weights is None:
        # one byte a count for S < 256: less memory to move
        count = np.zeros(below.shape, dtype=np.min_scalar_type(len(columns)))
        for column in columns:
            count += counted(column, below).view(np.uint8)
        return (count / len(columns)).T
    total = np.zeros(below.shape)
    for column, weight in zip(columns, weights.T, strict=True):
        total += weight * counted(column, below)
    return (total / weights.sum(axis=1)).T


def prior_share(rewards: Array, reference: Array, pooled: Array | None = None, *, strictly: bool = False) -> Array:
    """Fref: share of the reference's rewards at or below each reward, ``[B, G]``.

    A prompt with n < M reference lists is cold. Each list that it lacks counts as the pooled distribution would:
    ``Fref = (n F_own + (M - n) F_pooled) / M``, which is ``F_pooled`` alone at n = 0.

    Args:
        rewards: ``[B, G]``.
        reference: ``[B, M]``, not a number for lists that are lacking.
        pooled: ``[S]`` rewards of all prompts' reference lists, ascending; needed where there are cold prompts.
        strictly: below only.
    """
    own = share(rewards, reference, strictly=strictly)  # n F_own / M: what is not a number compares false
    if pooled is None:
        return own
    lacking = np.isnan(reference).mean(axis=1, keepdims=True)
    return own + lacking * np.searchsorted(pooled, rewards, side="left" if strictly else "right") / len(pooled)


def joined(rewards: Array, carried: Evidence | None) -> tuple[Array, Array | None]:
    """Values ``[B, G + E]`` of all evidence, and their weights: those of the group's ``[B, G]`` rewards are 1.

    Without carried evidence the weights are None: equal.
    """
    if carried is None:
        return rewards, None
    weights = np.concatenate([np.ones_like(rewards), carried.weights], axis=1)
    return np.concatenate([rewards, carried.values], axis=1), weights


def posterior(prior_share: Array, evidence_share: Array, settings: BetaSettings) -> tuple[Array, Array]:
    """Parameters (a, b) of the Beta over F(r).

    Prior ``Beta(m * Fref + s, m * (1 - Fref) + s)``; each of ``G`` pieces of evidence weighs
    ``w = tau * (m + 2s) / ((1 - tau) * G)``, so that tau is exactly the evidence's share of the posterior mean
    ``F = (m * Fref + s + w * k) / (m + 2s + w * G)`` with ``k = G * evidence_share`` (so that G cancels).

    A list above all M = 4 references, below one of its group of 2, at tau = 0.5: ``m + 2s = 5`` lists of prior,
    ``w G = 5`` of evidence, ``F = (4 + 0.5 + 2.5) / 10``.

    >>> a, b = posterior(np.array([[1.0]]), np.array([[0.5]]), BetaSettings(tau=0.5, strength=4))
    >>> a, b, a / (a + b)
    (array([[7.]]), array([[3.]]), array([[0.7]]))

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


def proxy_reward(
    rewards: Array,
    reference: Array,
    settings: BetaSettings,
    carried: Evidence | None = None,
    pooled: Array | None = None,
) -> Array:
    """Proxy reward R of every list of every group, ``[B, G]``.

    ``log E[F]`` or ``E[log F] = digamma(a) - digamma(a + b)`` under the posterior; with ``ties: exact``
    ``log((F^N - F_^N) / (N (F - F_))) / (N - 1)``, Best-of-N's own density ratio at a level of ties
    (F_: posterior mean of P(reward strictly below)), which tends to ``log F`` without ties: a form of ``log E[F]``; the
    settings refuse ``exact`` with ``mean_log``.

    Args:
        rewards: ``[B, G]`` the group's rewards: also the evidence.
        reference: ``[B, M]`` rewards of the reference's lists, as :func:`prior_share` takes them.
        settings: see :class:`BetaSettings`.
        carried: earlier evidence; with the group's it keeps the same total mass.
        pooled: for cold prompts, see :func:`prior_share`.
    """
    values, weights = joined(rewards, carried)

    def believed(strictly: bool) -> tuple[Array, Array]:
        prior = prior_share(rewards, reference, pooled, strictly=strictly)
        return posterior(prior, share(rewards, values, weights, strictly=strictly), settings)

    # ties enter as the Beta of "at or below" (le), of "below" (lt), or as their middle (mid)
    if settings.ties == "exact":
        return _exact(_mean(*believed(strictly=False)), _mean(*believed(strictly=True)), settings.bon_n)
    if settings.ties == "mid":
        at, below = believed(strictly=False), believed(strictly=True)
        a, b = (at[0] + below[0]) / 2, (at[1] + below[1]) / 2
    else:
        a, b = believed(strictly=settings.ties == "lt")
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
