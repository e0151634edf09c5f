"""Whether one number can say which point of a sweep is better. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from blade_dist.settings import Config
from blade_dist.sweep.results import Criterion
from blade_dist.sweep.space import Point

WORTH = (
    *("reward.weights", "reward.normalise", "reward.distributions", "reward.boosts"),
    *("reward.ranker", "reward.ranker_top"),
)
"""Settings that say what a list is worth."""

SCALES = ("prior.size", "prior.prompts", "train.prompts", "rollout.temperature")
"""Settings of the lists that the scales of ``reward.normalise`` are measured on."""

SAMPLED: dict[Criterion, tuple[str, ...]] = {
    "reward": ("train.prompts", "rollout.temperature"),
    "validation": ("train.validation_prompts",),
}
"""Settings that say for which prompts, and how, the lists are written whose rewards are compared."""

CONSTRAINTS = ("reward.at_least", "reward.at_most")
"""Settings whose multipliers count in what is learnt, and not in the reward that the step log records."""


@dataclass(frozen=True)
class Obstacle:
    """What keeps points from being compared."""

    why: str
    """A sentence without its full stop."""
    instead: str
    """What the user can do."""


def obstacle(points: Sequence[Point], by: Criterion) -> Obstacle | None:
    """Why none of the points may be called better than another by this criterion; None where one may.

    Points that differ only in ``run.seed`` are alike: under all seeds every combination has the same prompts.
    """
    configs = [point.config for point in points]
    scales = SCALES if any(config.reward.normalise for config in configs) else ()
    names = dict.fromkeys([*WORTH, *scales, *SAMPLED[by]])
    differ = [name for name in names if any(_value(config, name) != _value(configs[0], name) for config in configs)]
    if differ:
        sampled = any(name in SAMPLED[by] for name in differ)
        return Obstacle(
            f"points that differ in {' and '.join(differ)} have rewards that are no measure of each other",
            "compare them with `blade-dist evaluate`" if sampled else "choose by the parts",
        )
    if limits := [name for name in CONSTRAINTS if any(_value(config, name) for config in configs)]:
        return Obstacle(f"a reward does not say how far {' and '.join(limits)} holds", "choose by the parts")
    return None


def _value(config: Config, name: str) -> Any:
    return reduce(getattr, name.split("."), config)
