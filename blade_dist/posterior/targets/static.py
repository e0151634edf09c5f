"""Static Best-of-N alignment (vBoN: Amini et al., "Variational Best-of-N Alignment", ICLR 2025).

F comes from the M reference lists alone. All lists better than these have the same proxy reward: once the policy is up
there, whole groups have advantage 0.
"""

from __future__ import annotations

from dataclasses import replace

from blade_dist.posterior.beta import Array, proxy_reward
from blade_dist.posterior.targets.target import Groups, Target


def proxy(groups: Groups) -> Array:
    """``R = log E[F(r)]`` under the prior: the posterior at ``tau = 0``."""
    prior = replace(groups.settings, tau=0.0)
    return proxy_reward(groups.rewards, groups.reference, prior, pooled=groups.pooled)


TARGET = Target(proxy)
