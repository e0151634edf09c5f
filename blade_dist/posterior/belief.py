"""How good the belief is: calibration, credible bands, drift from the prior. Pure numpy / scipy.

A list counts itself among its group, which is harmless to the order within the group and wrong here: everything below
leaves it out, ``(k - 1) / (G - 1)``. Evidence that earlier visits left counts as it does in the posterior itself.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from blade_dist.posterior.beta import Array, BetaSettings, Evidence, joined, posterior, prior_share, share

BINS = 10
"""Of the probability integral transform's histogram."""

BAND = 0.95
"""Mass of the credible band."""


def leave_one_out(shares: Array, mass: Array | float, *, strictly: bool = False) -> Array:
    """Share ``[B, G]`` of all evidence *but the list itself* at or below each reward, from the share of all.

    Args:
        shares: ``[B, G]``.
        mass: of all evidence, ``[B, 1]``, where a list of the group weighs 1: G, and what is carried.
        strictly: shares are those strictly below.
    """
    return (mass * shares - (0 if strictly else 1)) / (mass - 1)


def believe(
    rewards: Array,
    reference: Array,
    settings: BetaSettings,
    carried: Evidence | None = None,
    pooled: Array | None = None,
) -> dict[str, Array]:
    """What a step's groups say of the posterior that they were judged by, each ``[B]`` or ``[B, bins]``.

    - ``drift``: mean absolute difference of F between posterior and prior, over the group;
    - ``band_low``, ``band_high``: mean ends of the 95 % credible interval of F at each reward, between its 2.5 % and
      97.5 % quantiles; ``band``: its mean width;
    - ``pit``: histogram of the probability integral transform of the group's own rewards. Uniform where the belief is
      calibrated. A reward among ties spreads its mass evenly over all of their F (Czado et al., Biometrics 2009).

    Args:
        rewards: ``[B, G]``, G at least 2.
        reference: ``[B, M]``, as :func:`~blade_dist.posterior.beta.prior_share` takes it.
        settings: of the posterior.
        carried: evidence of earlier visits, as it was before this step.
        pooled: for cold prompts.
    """
    values, weights = joined(rewards, carried)
    mass = rewards.shape[1] if weights is None else weights.sum(axis=1, keepdims=True)
    edges = []  # of the jump that F makes at each reward: the Beta just below it, then the one at it
    for strictly in (True, False):
        prior = prior_share(rewards, reference, pooled, strictly=strictly)
        others = leave_one_out(share(rewards, values, weights, strictly=strictly), mass, strictly=strictly)
        edges.append((*posterior(prior, others, settings), prior))
    (below_a, below_b, _), (a, b, prior) = edges
    mean = a / (a + b)
    m, s = settings.strength, settings.smoothing
    low, high = (betaincinv(a, b, tail).mean(axis=1) for tail in ((1 - BAND) / 2, (1 + BAND) / 2))
    return {
        "drift": np.abs(mean - (m * prior + s) / (m + 2 * s)).mean(axis=1),
        "band": high - low,
        "band_low": low,
        "band_high": high,
        "pit": pit_histogram(below_a / (below_a + below_b), mean),
    }


def pit_histogram(below: Array, at: Array) -> Array:
    """Mass of each of :data:`BINS` equal bins of [0, 1], ``[B, bins]``, rows sum to 1.

    A reward at which F jumps from 0.25 to 0.45 spreads its mass over that interval:

    >>> pit_histogram(np.array([[0.25]]), np.array([[0.45]])).round(2)
    array([[0.  , 0.  , 0.25, 0.5 , 0.25, 0.  , 0.  , 0.  , 0.  , 0.  ]])

    Args:
        below: ``[B, G]`` F just below each reward.
        at: ``[B, G]`` F at each reward, not smaller.
    """
    cuts = np.linspace(0, 1, BINS + 1)
    width = np.maximum(at - below, 1e-12)[..., None]  # without ties below == at: all mass at one point
    reached = np.clip((cuts - below[..., None]) / width, 0, 1)  # share of a reward's mass below each cut
    reached[..., 0], reached[..., -1] = 0, 1  # F = 0 and F = 1 belong to the first and the last bin
    return np.diff(reached, axis=-1).mean(axis=1)


def miscalibration(histogram: Array) -> float:
    """Total variation distance of a histogram from the uniform one: 0 (calibrated) to 1."""
    return float(np.abs(histogram / histogram.sum() - 1 / len(histogram)).sum() / 2)
