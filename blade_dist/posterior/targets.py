"""What the policy is aligned to: each target is one function from rewards to proxy rewards. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from blade_dist.posterior.beta import Array, BetaSettings, Evidence, proxy_reward

ProxyFunction = Callable[[Array, Array, BetaSettings, Evidence | None], Array]
"""(rewards ``[B, G]``, reference rewards ``[B, M]``, settings, carried evidence) -> proxy rewards ``[B, G]``."""


@dataclass(frozen=True)
class Target:
    """A proxy reward, and what it reads."""

    proxy: ProxyFunction
    uses_evidence: bool = False
    """Whether it reads what earlier visits left."""


def blade(rewards: Array, reference: Array, settings: BetaSettings, carried: Evidence | None) -> Array:
    """The posterior's, :func:`~blade_dist.posterior.beta.proxy_reward`."""
    return proxy_reward(rewards, reference, settings, carried)


def static(rewards: Array, reference: Array, settings: BetaSettings, _carried: Evidence | None) -> Array:
    """vBoN (Amini et al., ICLR 2025): the prior alone, ``tau = 0``."""
    return proxy_reward(rewards, reference, replace(settings, tau=0.0))


def grpo(rewards: Array, _reference: Array, _settings: BetaSettings, _carried: Evidence | None) -> Array:
    """The raw reward (GRPO, Shao et al., 2024)."""
    return rewards


TARGETS = {
    "blade": Target(blade, uses_evidence=True),
    "static": Target(static),
    "grpo": Target(grpo),
}
"""By the name that the setting ``target`` gives."""
