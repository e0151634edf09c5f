"""Floors and ceilings of an alignment: whether they can be kept, before it; whether they were, after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from blade_dist.batches import Ranked
from blade_dist.evaluation.search import oracle_parts, repeated
from blade_dist.posterior.constraint import Constraints
from blade_dist.posterior.prior import Prior
from blade_dist.settings import RewardSettings
from blade_dist.stages.opened import OpenedRun
from blade_dist.tracking.means import mean_of_last
from blade_dist.tracking.say import say

TRIED = 64
"""Prompts by whose lists it is seen what a metric reads."""


def check_limits(run: OpenedRun, prior: Prior, console: Console) -> None:
    """Compares the limits with the reference lists of the run's prior; says which are in doubt.

    Raises:
        UserError: a limit that is out of reach, see :meth:`~blade_dist.posterior.constraint.Constraints.check`.
    """
    if run.config.reward.constrained:
        for doubt in _limits(run.config.reward).check(prior.parts, oracles(run)):
            say(console, f"train: warning: {doubt}")


def oracles(run: OpenedRun) -> set[str]:
    """The constrained metrics that look at held-out items."""
    prompts, catalog = run.data.train.rows(np.arange(min(TRIED, len(run.data.train)))), run.data.catalog
    shape = (len(prompts), 1, run.config.lists.k)
    items = np.random.default_rng(run.config.run.seed).integers(len(catalog), size=shape, dtype=np.int32)
    # any ranker will do, as it is tried what reads the held-out items
    ranker = Ranked(items[:, 0], np.full(items[:, 0].shape, -1.0))
    return oracle_parts(run.composite, repeated(prompts, items, catalog, ranker)) & set(run.config.reward.constrained)


def show_limits(reward: RewardSettings, rows: Sequence[Mapping[str, float]], console: Console) -> None:
    """A line for each limit: what the last tenth of the ``rows`` of a step log, and its last multiplier, make of it."""
    limits = _limits(reward)
    means = np.array([mean_of_last([row[f"reward/{name}"] for row in rows]) for name in limits.names])
    entries = zip(limits.settings, limits.limits, limits.columns, means, limits.missed(means), strict=True)
    for setting, limit, column, mean, missed in entries:
        say(
            console,
            f"train: {'warning: ' if missed else ''}{setting}: {limit:g} is {'missed' if missed else 'kept'}: "
            f"{mean:.4g} on average in the last tenth of the steps, multiplier {rows[-1][column]:.4g}"
            + ("; more train.steps, a higher reward.multiplier_lr or an easier limit may help" if missed else ""),
        )


def _limits(reward: RewardSettings) -> Constraints:
    return Constraints.of(reward.at_least, reward.at_most, reward.multiplier_lr)
