"""Floors and ceilings on metrics: the reward is maximised subject to them, by Lagrange multipliers. Pure numpy.

``max E[r] subject to s (E[c] - limit) >= 0`` (s = 1 for a floor, -1 for a ceiling) has the Lagrangian
``E[r + lambda s (c - limit)]``: the multiplier is the weight of the constrained metric c in the reward, and rises by
gradient ascent on the dual while the limit is missed, ``lambda <- max(0, lambda + lr s (limit - mean c))``.

A floor of 0.5 at lr 0.5, where the sampled lists have 0.3 on average: the metric's weight rises by 0.1 a step; once
they have more than 0.5 it falls again, to 0 at the least.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.errors import UserError
from blade_dist.posterior.beta import Array

ROUNDING = 1e-9
"""By so much a mean may miss a limit that every value keeps."""


@dataclass(frozen=True)
class Constraints:
    """``C`` limits of metrics; a metric may have two, a floor and a ceiling."""

    names: tuple[str, ...]
    limits: Array
    """``[C]``."""
    signs: Array
    """``[C]`` 1 where the mean must be at least the limit, -1 where at most."""
    lr: float
    """Of the multipliers, per step."""

    @classmethod
    def of(cls, at_least: Mapping[str, float], at_most: Mapping[str, float], lr: float) -> Constraints:
        """From metric to limit."""
        limits = np.array([*at_least.values(), *at_most.values()], dtype=np.float64)
        signs = np.array([1.0] * len(at_least) + [-1.0] * len(at_most))
        return cls((*at_least, *at_most), limits, signs, lr)

    @property
    def settings(self) -> tuple[str, ...]:
        """``C`` full names of the settings."""
        return tuple(f"reward.{kind}.{name}" for kind, name in zip(self._kinds, self.names, strict=True))

    @property
    def columns(self) -> tuple[str, ...]:
        """``C`` names of the multipliers in the step log, ``multiplier/<metric>``.

        ``multiplier/at_least/<metric>`` and ``multiplier/at_most/<metric>`` where the metric has both.
        """
        both = {name for name in self.names if self.names.count(name) > 1}
        pairs = zip(self._kinds, self.names, strict=True)
        return tuple(f"multiplier/{kind}/{name}" if name in both else f"multiplier/{name}" for kind, name in pairs)

    @property
    def _kinds(self) -> list[str]:
        return ["at_least" if sign > 0 else "at_most" for sign in self.signs]

    def start(self) -> Array:
        """``[C]`` multipliers before the first step."""
        return np.zeros(len(self.names))

    def added(self, multipliers: Array, parts: Mapping[str, Array]) -> Array | float:
        """What the multipliers add to the reward, in the shape of each of ``parts``; 0 without constraints."""
        weighted = zip(multipliers * self.signs, self.names, strict=True)
        return sum((weight * parts[name] for weight, name in weighted), 0.0)

    def updated(self, multipliers: Array, parts: Mapping[str, Array]) -> Array:
        """``[C]`` multipliers after a step whose lists have these values."""
        means = np.array([parts[name].mean() for name in self.names])
        return np.maximum(0.0, multipliers + self.lr * self.signs * (self.limits - means))

    def missed(self, means: Array) -> NDArray[np.bool_]:
        """``[C]`` whether metrics with these means, ``[C]``, miss their limits."""
        return self.signs * means < self.signs * self.limits

    def check(self, parts: Mapping[str, Array], oracles: Container[str]) -> list[str]:
        """Whether the limits can be kept, as far as ``[P, M]`` lists of the reference's can say.

        To pick the best list of every prompt by a metric that reads held-out items takes an oracle: the mean of these
        best is more than a policy gets, and a limit beyond it is refused. By another metric a policy may write better
        lists than all M, and for every prompt such as the reference wrote for one: only a limit beyond the best of all
        ``P * M`` lists, which none of them reaches, is refused. Between that and the mean of the best there is doubt.

        Args:
            parts: metric to its values, not a number where a (cold) prompt has no lists.
            oracles: metrics that read held-out items.

        Returns:
            A line for each limit that is in doubt.

        Raises:
            UserError: a limit that is refused, with what is reachable.
        """
        doubts = []
        for setting, name, limit, sign in zip(self.settings, self.names, self.limits, self.signs, strict=True):
            known = parts[name][~np.isnan(parts[name][:, 0])]  # prompts with at least one list
            of_each = np.nanmax(sign * known, axis=1)
            best, of_all, mean = sign * of_each.mean(), sign * of_each.max(), np.nanmean(known)
            lists = f"the best of {known.shape[1]} reference lists of every prompt have {best:.4g} on average"
            own = f"the reference's own mean is {mean:.4g}"
            beyond = sign * (limit - best) > ROUNDING
            if name in oracles and beyond:
                raise UserError(
                    f"{setting}: {limit:g} is out of reach: {lists}, and only an oracle that knows the held-out items "
                    f"can pick them; set a limit that is easier than that ({own})"
                )
            if sign * of_all < sign * limit:
                raise UserError(
                    f"{setting}: {limit:g} is out of reach: the best of all {np.isfinite(known).sum()} reference lists "
                    f"has {of_all:.4g}; set a limit that is easier than that ({own})"
                )
            if beyond:
                doubts.append(f"{setting}: {limit:g} may be out of reach: {lists} ({own})")
        return doubts
