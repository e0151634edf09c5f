"""GRPO on the reward itself (Shao et al., "DeepSeekMath", 2024): no Best-of-N, and no belief about a reference."""

from __future__ import annotations

from blade_dist.posterior.beta import Array
from blade_dist.posterior.targets.target import Groups, Target


def proxy(groups: Groups) -> Array:
    """``R = r``."""
    return groups.rewards


TARGET = Target(proxy)
