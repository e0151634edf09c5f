"""The composite reward: a weighted sum of metrics and of the user's own functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.config import fingerprint
from blade_dist.errors import UserError
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import metric

Scores = NDArray[np.float64]


class Composite:
    """``sum_i weight_i * metric_i``. A name with a colon is ``package.module:function``, called with ``Lists``."""

    def __init__(self, weights: dict[str, float], catalog: Catalog, k: int, setting: str = "reward.weights") -> None:
        """Looks every name up; ``setting`` is where the names stand.

        Raises:
            UserError: unknown metric, cut-off beyond k, or a function that can't be imported.
        """
        self._weights = weights
        self._catalog = catalog
        self._k = k
        self._setting = setting
        self._parts: dict[str, Callable[[Lists], Scores]] = {name: _part(name, k, setting) for name in weights}

    def check(self) -> None:
        """Scores two small lists, so that a faulty function is found before anything starts.

        Raises:
            UserError: a function raises, or returns something else than n finite numbers.
        """
        full = np.arange(self._k, dtype=np.int32) % len(self._catalog)
        items = np.stack([full, np.full(self._k, MISS, dtype=np.int32)])
        known = Ragged.of([[0], [len(self._catalog) - 1]])
        self.score(Lists(items, targets=known, history=known, catalog=self._catalog))

    def score(self, lists: Lists) -> tuple[Scores, dict[str, Scores]]:
        """(total ``[n]``, each part ``[n]`` unweighted).

        Raises:
            UserError: a user's function fails, see :meth:`check`.
        """
        parts = {name: _checked(name, part, lists, self._setting) for name, part in self._parts.items()}
        total = np.zeros(len(lists))
        for name, values in parts.items():
            total += self._weights[name] * values
        return total, parts

    def fingerprint(self) -> str:
        """Equal names and weights, equal fingerprint."""
        return fingerprint(dict(sorted(self._weights.items())), self._k)


def _part(name: str, k: int, setting: str) -> Callable[[Lists], Scores]:
    if ":" not in name:
        function, cut = metric(name, k, setting)
        return lambda lists: function(lists, cut)
    module, _, attribute = name.partition(":")
    try:
        own: Callable[[Lists], Scores] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{setting} {name}: cannot be imported: {error}") from None
    return own


def _checked(name: str, part: Callable[[Lists], Scores], lists: Lists, setting: str) -> Scores:
    if ":" not in name:
        return part(lists)
    try:
        values = np.asarray(part(lists), dtype=np.float64)
    except Exception as error:
        raise UserError(f"{setting} {name}: raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    if values.shape != (len(lists),):
        raise UserError(
            f"{setting} {name}: returned shape {values.shape} for {len(lists)} lists; return one number each"
        )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(f"{setting} {name}: returned {values[bad]} for list {bad}; return finite numbers")
    return values
