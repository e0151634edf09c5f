"""How good the belief is: calibration, credible bands, drift from the prior. Pure numpy / scipy.

A list counts itself among its group, which is harmless to the order within the group and wrong here: everything below
leaves it out, ``(k - 1) / (G - 1)``.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from blade_dist.posterior.beta import Array, BetaSettings, posterior, prior_share, share

BINS = 10
"""Of the probability integral transform's histogram."""

BAND = 0.95
"""Mass of the credible band."""


def leave_one_out(shares: Array, group: int, *, strictly: bool = False) -> Array:
    """Share of the *other* lists of a group of ``group`` at or below each reward, from the share of all."""
    return (group * shares - (0 if strictly else 1)) / (group - 1)


def believe(rewards: Array, reference: Array, settings: BetaSettings, pooled: Array | None = None) -> dict[str, Array]:
    """What a step's groups say of the posterior that they were judged by, each ``[B]`` or ``[B, bins]``.

    - ``drift``: mean absolute difference of F between posterior and prior, over the group;
    - ``band``: mean width of the 95 % credible interval of F;
    - ``pit``: histogram of the probability integral transform of the group's own rewards. Uniform where the belief is
      calibrated. A reward among ties spreads its mass evenly over all of their F (Czado et al., Biometrics 2009).

    Args:
        rewards: ``[B, G]``, G at least 2.
        reference: ``[B, M]``, as :func:`~blade_dist.posterior.beta.prior_share` takes it.
        settings: of the posterior.
        pooled: for cold prompts.
    """
    group = rewards.shape[1]
    edges = []
    for strictly in (True, False):
        prior = prior_share(rewards, reference, pooled, strictly=strictly)
        others = leave_one_out(share(rewards, rewards, strictly=strictly), group, strictly=strictly)
        edges.append((*posterior(prior, others, settings), prior))
    (below_a, below_b, _), (a, b, prior) = edges
    mean = a / (a + b)
    m, s = settings.strength, settings.smoothing
    tail = (1 - BAND) / 2
    return {
        "drift": np.abs(mean - (m * prior + s) / (m + 2 * s)).mean(axis=1),
        "band": (betaincinv(a, b, 1 - tail) - betaincinv(a, b, tail)).mean(axis=1),
        "pit": pit_histogram(below_a / (below_a + below_b), mean),
    }


def pit_histogram(below: Array, at: Array) -> Array:
    """Mass of each of :data:`BINS` equal bins of [0, 1], ``[B, bins]``, rows sum to 1.

    Args:
        below: ``[B, G]`` F just below each reward.
        at: ``[B, G]`` F at each reward, not smaller.
    """
    cuts = np.linspace(0, 1, BINS + 1)
    width = np.maximum(at - below, 1e-12)[..., None]
    reached = np.clip((cuts - below[..., None]) / width, 0, 1)
    reached[..., 0], reached[..., -1] = 0, 1
    return np.diff(reached, axis=-1).mean(axis=1)


def miscalibration(histogram: Array) -> float:
    """Total variation distance of a histogram from the uniform one: 0 (calibrated) to 1."""
    return float(np.abs(histogram / histogram.sum() - 1 / len(histogram)).sum() / 2)
