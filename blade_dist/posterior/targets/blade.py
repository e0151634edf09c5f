"""BLADE: Best-of-N of the reference; the policy's own lists of the same step update the belief of each prompt's F.

The evidence moves F to where the policy writes by now, so that lists which are all better than the M reference lists
still differ in proxy reward. ``posterior.tau`` says how much of the belief is evidence; at 0 it is ``static``.
"""

from __future__ import annotations

from blade_dist.posterior.beta import Array, proxy_reward
from blade_dist.posterior.targets.target import Groups, Target


def proxy(groups: Groups) -> Array:
    """``R = log E[F(r)]`` under the posterior, see :func:`~blade_dist.posterior.beta.proxy_reward`."""
    return proxy_reward(groups.rewards, groups.reference, groups.settings, groups.carried, groups.pooled)


TARGET = Target(proxy, uses_evidence=True)
