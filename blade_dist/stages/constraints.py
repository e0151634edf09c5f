"""Floors and ceilings of an alignment: whether they can be kept, before it; whether they were, after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from blade_dist.data.bundle import DataBundle
from blade_dist.evaluation.search import is_oracle, repeated
from blade_dist.posterior.constraint import Constraints
from blade_dist.posterior.prior import Prior
from blade_dist.settings import Config
from blade_dist.stages.inputs import Inputs, make_composite
from blade_dist.stages.prior import prior_stamp
from blade_dist.tracking.means import mean_of_last

TRIED = 64
"""Prompts by whose lists it is seen what a metric reads."""


def check_limits(config: Config, inputs: Inputs, console: Console) -> None:
    """Compares the limits with the prior, which must be there; says which are in doubt.

    Raises:
        UserError: a limit that is out of reach, see :meth:`~blade_dist.posterior.constraint.Constraints.check`.
    """
    if not config.reward.constrained:
        return
    parts = Prior.load(inputs.paths.prior, prior_stamp(config, inputs)).parts
    for doubt in _limits(config).check(parts, oracles(config, inputs.data)):
        _say(console, f"train: warning: {doubt}")


def oracles(config: Config, data: DataBundle) -> set[str]:
    """The constrained metrics that look at held-out items."""
    prompts = data.train.rows(np.arange(min(TRIED, len(data.train))))
    rng, shape = np.random.default_rng(config.run.seed), (len(prompts), 1, config.lists.k)
    lists = repeated(prompts, rng.integers(len(data.catalog), size=shape, dtype=np.int32), data.catalog)
    return {name for name in config.reward.constrained if is_oracle(make_composite(config, data, {name: 1.0}), lists)}


def show_limits(config: Config, rows: Sequence[Mapping[str, float]], console: Console) -> None:
    """A line for each limit: what the last tenth of the ``rows`` of a step log, and its last multiplier, make of it."""
    limits = _limits(config)
    means = np.array([mean_of_last([row[f"reward/{name}"] for row in rows]) for name in limits.names])
    entries = zip(limits.settings, limits.limits, limits.columns, means, limits.missed(means), strict=True)
    for setting, limit, column, mean, missed in entries:
        _say(
            console,
            f"train: {'warning: ' if missed else ''}{setting}: {limit:g} is {'missed' if missed else 'kept'}: "
            f"{mean:.4g} on average in the last tenth of the steps, multiplier {rows[-1][column]:.4g}"
            + ("; more train.steps, a higher reward.multiplier_lr or an easier limit may help" if missed else ""),
        )


def _limits(config: Config) -> Constraints:
    return Constraints.of(config.reward.at_least, config.reward.at_most, config.reward.multiplier_lr)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
