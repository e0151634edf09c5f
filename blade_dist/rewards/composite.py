"""The composite reward: a weighted sum of metrics and of the user's own functions."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.rewards.given import GivenLists
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.named import NamedMetrics, Weights

Scores = NDArray[np.float64]
Own = Callable[[Lists], Scores]
"""A function of the user's."""

DEFINITIONS = 3
"""Part of every fingerprint: one more whenever a metric's value for some list changes, so that rewards of two
definitions are never mixed."""

SIGNIFICANT_BITS = 40
"""What is kept of a float64's 53: about 12 digits. Rounding errors of a sum of metrics are far below that, differences
between lists far above."""


def is_own(name: str) -> bool:
    """Whether it names a function of the user's, as ``package.module:function``."""
    return ":" in name


def imported(name: str, setting: str) -> Own:
    """The function of this import path, which stands in ``setting``.

    Raises:
        UserError: it can't be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        own: Own = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        raise UserError(f"{setting} {name}: cannot be imported: {one_line(error)}") from error
    return own


class Composite:
    """``sum_i weight_i * metric_i``. A name with a colon is ``package.module:function``, called with ``Lists``."""

    def __init__(
        self,
        weights: dict[str, float],
        catalog: Catalog,
        k: int,
        setting: str = "reward.weights",
        distributions: Weights | None = None,
        boosts: Weights | None = None,
        given: GivenLists | None = None,
        own: Callable[[str, str], Own] = imported,
    ) -> None:
        """Looks every name up; ``setting`` is where the names stand.

        Args:
            weights: name to weight.
            catalog: the items.
            k: longest cut-off.
            setting: where the names stand.
            distributions: those of ``reward.distributions``, for ``mgu/name@k`` and ``dgu/name@k``.
            boosts: those of ``reward.boosts``, for ``boost/name@k``.
            given: keeps the lists that a function of the user's fails at; None: nobody does.
            own: finds a function of the user's by its import path and the setting in which it stands.

        Raises:
            UserError: unknown metric, distribution or boost, cut-off beyond k, a function that can't be imported, or a
                weight that isn't finite.
        """
        for name, weight in weights.items():
            if not math.isfinite(weight):
                raise UserError(f"{setting} {name}: the weight is {weight}; give a finite number")
        self._weights = weights
        self._scales: Mapping[str, float] = {}
        self._catalog = catalog
        self._k = k
        self._setting = setting
        self._given = given
        self._named = NamedMetrics(catalog, distributions, boosts)
        self._parts = {
            name: own(name, setting) if is_own(name) else _part(name, k, setting, self._named) for name in weights
        }

    def check(self) -> None:
        """Scores two small lists (a full one, one of misses), so that a faulty function fails before anything starts.

        Raises:
            UserError: a function raises, or returns something else than n finite numbers.
        """
        full = np.arange(self._k, dtype=np.int32) % len(self._catalog)  # a catalog may have fewer than k items
        items = np.stack([full, np.full(self._k, MISS, dtype=np.int32)])
        known = Ragged.of([[0], [len(self._catalog) - 1]])
        users, ranker = np.array(["a user"] * 2), Ranked(np.stack([full, full]), np.full(items.shape, -1.0))
        self.score(Lists(items, targets=known, history=known, catalog=self._catalog, users=users, ranker=ranker))

    def rescaled(self, scales: Mapping[str, float]) -> Composite:
        """The same, which divides each metric by its scale, see :func:`spreads`, before it is weighted."""
        other = copy(self)
        other._scales = scales
        return other

    def score(self, lists: Lists) -> tuple[Scores, dict[str, Scores]]:
        """(total ``[n]``, each part ``[n]`` unweighted).

        Values that differ by rounding errors only are made equal: the posterior counts how many rewards are not above
        a reward, and two lists that are worth the same must be a tie there.

        Raises:
            UserError: a user's function fails, see :meth:`check`; a metric is not finite.
        """
        parts = {name: self._checked(name, part, lists) for name, part in self._parts.items()}
        weighted = [self._weights[name] / self._scales.get(name, 1.0) * values for name, values in parts.items()]
        total = np.sum(weighted, axis=0) if weighted else np.zeros(len(lists))
        return _settled(total, np.abs(weighted).sum(axis=0) if weighted else total), parts

    def _checked(self, name: str, part: Callable[[Lists], Scores], lists: Lists) -> Scores:
        where = f"{self._setting} {name}"
        if not is_own(name):
            return _settled_finite(where, part(lists), lists)
        try:
            with nullcontext() if self._given is None else self._given.kept(name, lists):
                return _settled_finite(where, _called(where, part, lists), lists)
        except UserError as error:
            if self._given is None:
                raise
            raise UserError(f"{error}; it was called with the lists in {self._given.file}") from error

    def depends_on(self) -> dict[str, Any]:
        """What rewards depend on, as plain values: weights, and of the other settings of ``reward`` those that are
        read. A user's code is not looked at."""
        return {
            "weights": dict(self._weights),
            "definitions of metrics": DEFINITIONS,
            **self._named.used(self._weights),
        }


def spreads(parts: Mapping[str, Scores]) -> dict[str, float]:
    """How much each metric differs between lists for the same prompt: what one unit of a normalised weight means.

    The root of the mean, over prompts, of the variance (ddof 0) within the prompt's ``[B, M]`` lists.

    Raises:
        UserError: a metric that is the same in all lists of every prompt.
    """
    by_metric = {name: float(np.sqrt(values.var(axis=1).mean())) for name, values in parts.items()}
    for name, spread in by_metric.items():
        if not spread > 0:
            lists = parts[name].shape
            raise UserError(
                f"reward.normalise: {name} is the same in all {lists[1]} reference lists of each of {lists[0]} "
                "prompts, so it has no spread to be divided by: leave it out, or set reward.normalise to false"
            )
    return by_metric


def _part(name: str, k: int, setting: str, named: NamedMetrics) -> Own:
    function, cut = named.find(name, k, setting)
    return lambda lists: function(lists, cut)


def _settled_finite(where: str, values: Scores, lists: Lists) -> Scores:
    if values.shape != (len(lists),):
        raise UserError(f"{where}: returned shape {values.shape} for {len(lists)} lists; return one number each")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(f"{where}: returned {values[bad]} for list {bad}; return finite numbers")
    return _settled(values, values)


def _called(where: str, own: Callable[[Lists], Scores], lists: Lists) -> Scores:
    try:
        return np.asarray(own(lists), dtype=np.float64)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # exit() would end the process without a word
        raise UserError(f"{where}: raised {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Its type and its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _settled(values: Scores, size: Scores) -> Scores:
    """Rounded to :data:`SIGNIFICANT_BITS` of ``size``, the sum of the absolute values of what they were added up from.

    The rounding error of 0.3 - 0.3 + 1e-16 is relative to 0.3, not to the result, so that ``size`` sets the grid.
    """
    _, exponent = np.frexp(size)
    return np.ldexp(np.rint(np.ldexp(values, SIGNIFICANT_BITS - exponent)), exponent - SIGNIFICANT_BITS)
