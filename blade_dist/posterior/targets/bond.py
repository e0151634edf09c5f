"""J-BOND (Sessa et al., "BOND: Aligning LLMs with Best-of-N Distillation", ICLR 2025, Algorithm 2). Pure numpy.

The policy pi is drawn to the Best-of-2 of an anchor, an exponential moving average of its own weights, so that N grows
as the anchor follows. For each prompt the anchor writes ``y'_1`` and ``y'_2``; the gradient is
``(1 - beta) G_FW + beta G_BW + gamma G_Reg`` with

- ``G_FW = -grad log pi(y*)``, y* the better one of the anchor's lists: forward KL, imitation;
- ``G_BW = -grad log pi(y) (r_JBOND(y) - log pi(y) / pi_anchor(y) - baseline)``: backward KL, by REINFORCE;
- ``G_Reg = -grad log pi(y) (-log pi(y) / pi_anchor(y))``: gradient of KL(pi || pi_anchor).

The log-ratio in ``G_BW`` is that KL's gradient too, so that with ``A = r_JBOND - baseline`` what is minimised is

    ``(1 - beta) (-log pi(y*)) + beta (-A log pi(y)) + (beta + gamma) KL(pi || pi_anchor)``.

The penalty of log 16, beta = 0.5 and eta = 0.02 are the paper's as we and another implementation of it read it (its
appendix was not at hand); gamma is 0 here, the paper tries several.

What differs: the G lists of a group stand for the one sample ``y``, all judged by the same two lists; the baseline is
their mean, not the batch's; and the KL is the k3 estimate that every target here has, whose expected gradient is that
of KL(pi_anchor || pi): the same to first order in the distance of the two, which eta keeps small.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.posterior.advantage import group_advantage
from blade_dist.posterior.beta import Array
from blade_dist.posterior.targets.target import Groups, Target

LISTS = 2
"""The anchor's lists per prompt."""

PENALTY = np.log(16.0)
"""At a reward's quantile p among the anchor's lists, both are better with probability ``(1 - p)^2``, and
``E[r_JBOND] = -(1 - p)^2 log 16``: equal to ``log p``, the quantity of Best-of-2, at p = 1/2 and at p = 1."""


def jbond_reward(rewards: Array, anchor: Array) -> Array:
    """r_JBOND, ``[B, G]``: ``-log 16`` for a list that is worse than all of the anchor's, else 0.

    Args:
        rewards: ``[B, G]``.
        anchor: ``[B, 2]`` rewards of the anchor's lists.
    """
    return np.where(rewards < anchor.min(axis=1, keepdims=True), -PENALTY, 0.0)


def proxy(groups: Groups) -> Array:
    """``R = r_JBOND``: the anchor's lists stand where other targets have the reference's."""
    return jbond_reward(groups.rewards, groups.reference)


def centred_advantage(proxy: Array) -> NDArray[np.float32]:
    """``R - mean(R)``: the objective above says how large an advantage is, so ``advantage.scale`` is not read."""
    return group_advantage(proxy, "none")


TARGET = Target(proxy, fixed_advantage=centred_advantage)
