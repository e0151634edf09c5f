"""What the policy is aligned to: a target is a function from rewards to proxy rewards, and one to advantages. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blade_dist.posterior.advantage import best_of_group, centred_advantage, group_advantage
from blade_dist.posterior.beta import Array, BetaSettings, Evidence, proxy_reward
from blade_dist.posterior.bond import jbond_reward

ProxyFunction = Callable[[Array, Array, BetaSettings, Evidence | None, Array | None], Array]
"""(rewards ``[B, G]``, reference rewards ``[B, M]``, settings, carried evidence, pooled reference rewards) -> proxy
rewards ``[B, G]``."""

AdvantageFunction = Callable[[Array, Literal["std", "none"]], NDArray[np.float32]]
"""(proxy rewards ``[B, G]``, scale) -> advantages ``[B, G]``."""


@dataclass(frozen=True)
class Target:
    """A proxy reward, what it reads, and the advantage that is made of it."""

    proxy: ProxyFunction
    uses_evidence: bool = False
    """Whether it reads what the policy's own lists say: this step's and what earlier visits left."""
    advantage: AdvantageFunction = group_advantage


def blade(
    rewards: Array, reference: Array, settings: BetaSettings, carried: Evidence | None, pooled: Array | None
) -> Array:
    """The posterior's, :func:`~blade_dist.posterior.beta.proxy_reward`."""
    return proxy_reward(rewards, reference, settings, carried, pooled)


def static(
    rewards: Array, reference: Array, settings: BetaSettings, _carried: Evidence | None, pooled: Array | None
) -> Array:
    """vBoN (Amini et al., ICLR 2025): the prior alone, ``tau = 0``."""
    return proxy_reward(rewards, reference, replace(settings, tau=0.0), pooled=pooled)


def bond(
    rewards: Array, anchor: Array, _settings: BetaSettings, _carried: Evidence | None, _pooled: Array | None
) -> Array:
    """J-BOND's, with the anchor's lists in the reference's place."""
    return jbond_reward(rewards, anchor)


def raw(
    rewards: Array, _reference: Array, _settings: BetaSettings, _carried: Evidence | None, _pooled: Array | None
) -> Array:
    """The reward itself."""
    return rewards


TARGETS = {
    "blade": Target(blade, uses_evidence=True),
    "static": Target(static),
    "bond": Target(bond, advantage=centred_advantage),
    # GRPO (Shao et al., 2024)
    "grpo": Target(raw),
    # fine-tuning on the best list of each group: expert iteration, or RAFT (Dong et al., TMLR 2023)
    "best_of_n_sft": Target(raw, advantage=best_of_group),
}
"""By the name that the setting ``target`` gives."""
