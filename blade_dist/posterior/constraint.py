"""Floors and ceilings on metrics: the reward is maximised subject to them, by Lagrange multipliers. Pure numpy.

``max E[r] subject to s (E[c] - limit) >= 0`` (s = 1 for a floor, -1 for a ceiling) has the Lagrangian
``E[r + lambda s (c - limit)]``: the multiplier is the weight of the constrained metric c in the reward, and rises by
gradient ascent on the dual while the limit is missed, ``lambda <- max(0, lambda + lr s (limit - mean c))``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from blade_dist.errors import UserError
from blade_dist.posterior.beta import Array


@dataclass(frozen=True)
class Constraints:
    """``C`` metrics with a limit each."""

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

    def start(self) -> Array:
        """``[C]`` multipliers before the first step."""
        return np.zeros(len(self.names))

    def added(self, multipliers: Array, parts: Mapping[str, Array]) -> Array | float:
        """What the multipliers add to the reward, in the shape of each of ``parts``; 0 without constraints."""
        weighed = zip(multipliers * self.signs, self.names, strict=True)
        return sum((weight * parts[name] for weight, name in weighed), 0.0)

    def updated(self, multipliers: Array, parts: Mapping[str, Array]) -> Array:
        """``[C]`` multipliers after a step whose lists have these values."""
        means = np.array([parts[name].mean() for name in self.names])
        return np.maximum(0.0, multipliers + self.lr * self.signs * (self.limits - means))

    def check(self, parts: Mapping[str, Array]) -> None:
        """Whether the best reference list of every prompt, ``[P, M]``, would keep the limits.

        Raises:
            UserError: a limit that even these miss; it says what they reach.
        """
        for name, limit, sign in zip(self.names, self.limits, self.signs, strict=True):
            known = sign * parts[name][~np.isnan(parts[name][:, 0])]
            best = sign * float(np.nanmax(known, axis=1).mean())
            if sign * best < sign * limit:
                what = "at_least" if sign > 0 else "at_most"
                raise UserError(
                    f"reward.{what} {name}: {limit:g} is out of reach: the best of {known.shape[1]} reference lists of "
                    f"every prompt have {best:.4g} on average; set a limit that is easier than that"
                )
