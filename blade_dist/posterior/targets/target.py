"""What a target is: from the rewards of a prompt's group to the numbers that the learner maximises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.posterior.advantage import Scale, group_advantage
from blade_dist.posterior.beta import Array, BetaSettings, Evidence


@dataclass(frozen=True)
class Groups:
    """``B`` prompts' groups and what is known of the prompts. A target reads of it what it needs."""

    rewards: Array
    """``[B, G]`` rewards of the policy's lists."""
    reference: Array
    """``[B, M]`` rewards of the reference's lists for the same prompts, not a number where a cold prompt lacks one; of
    an anchor's lists where there is an anchor."""
    settings: BetaSettings
    carried: Evidence | None = None
    """What earlier visits left; None without ``posterior.carry``."""
    pooled: Array | None = None
    """``[S]`` rewards that stand for all prompts' reference lists, ascending; None where no prompt is cold."""


@dataclass(frozen=True)
class Target:
    """What the policy is aligned to."""

    proxy: Callable[[Groups], Array]
    """Proxy rewards ``R``, ``[B, G]``."""
    fixed_advantage: Callable[[Array], NDArray[np.float32]] | None = None
    """From proxy rewards to advantages, both ``[B, G]``, for a target whose objective fixes them. None: GRPO's, with
    the setting ``advantage.scale``."""
    uses_evidence: bool = False
    """Whether it reads what the policy's own lists say: this step's as evidence, and ``carried``."""

    def advantage(self, proxy: Array, scale: Scale) -> NDArray[np.float32]:
        """``[B, G]``."""
        return group_advantage(proxy, scale) if self.fixed_advantage is None else self.fixed_advantage(proxy)
