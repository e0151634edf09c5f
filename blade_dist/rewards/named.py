"""Metrics by name, with what may stand in it: ``mgu/distribution@k``, ``boost/name@k``, ``excess/N@k``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError, nearest
from blade_dist.rewards.distribution import make_distribution
from blade_dist.rewards.metrics import BY_RANKER, METRICS, Metric, cut_off, metric
from blade_dist.rewards.soft import Excess, make_boost

AGAINST = ("mgu", "dgu")
"""Metrics that a distribution may be named for."""
BOOST, EXCESS = "boost", "excess"
BY_GROUP = ("ild", "mgu", "dgu", "calibration", "entropy", EXCESS)
"""Metrics that are the same for all lists where the catalog has no groups."""
Weights = Mapping[str, Mapping[str, float]]


def check_groups(names: Iterable[str], catalog: Catalog, setting: str) -> None:
    """Raises UserError for a metric of the catalog's groups where there are none; head and tail are always there."""
    for name in () if catalog.n_groups else names:
        base = name.partition("@")[0]
        if base in BY_GROUP or base.partition("/")[0] == EXCESS:
            raise UserError(
                f"{setting} {name!r}: the catalog has no groups (data.columns.groups), and it is about them"
            )


def reads_ranker(names: Iterable[str]) -> bool:
    """Whether one of the metrics needs a ranker's distribution."""
    return any(name.partition("@")[0] in BY_RANKER for name in names)


class NamedMetrics:
    """The metrics that a catalog and the settings ``reward.distributions`` and ``reward.boosts`` know."""

    def __init__(self, catalog: Catalog, distributions: Weights | None, boosts: Weights | None) -> None:
        """Makes every distribution and every boost.

        Raises:
            UserError: one that does not fit the catalog.
        """
        self._given = {"distributions": distributions or {}, "boosts": boosts or {}}
        self._distributions = {name: make_distribution(name, w, catalog) for name, w in (distributions or {}).items()}
        self._boosts = {name: make_boost(name, w, catalog) for name, w in (boosts or {}).items()}

    def find(self, name: str, k: int, setting: str) -> tuple[Metric, int]:
        """Function and cut-off of a name that stands in ``setting``; ``k``: the longest cut-off.

        Raises:
            UserError: an unknown name, with the nearest one; a cut-off beyond ``k``.
        """
        # mgu/shelves@5: base mgu, argument shelves, cut 5; mgu@5: no argument. A name may be wrong in any part of it
        base, slash, rest = name.partition("/")
        argument, _, cut = rest.partition("@") if slash else ("", "", base.partition("@")[2])
        base = base.partition("@")[0]
        if base == BOOST:
            return self._boost(name, argument, setting), cut_off(name, f"{BOOST}/{argument}", cut, k, setting)
        if base == EXCESS:
            if not argument.isdecimal() or not int(argument):
                raise UserError(f"{setting} {name!r}: write {EXCESS}/N@{k}, N the most items of a group: 1 or more")
            return Excess(int(argument)), cut_off(name, f"{EXCESS}/{argument}", cut, k, setting)
        if base not in METRICS and (near := nearest(base, [*METRICS, BOOST, EXCESS])) not in METRICS:
            raise UserError(f"{setting} {name!r}: unknown metric; did you mean {near}/{argument or 'NAME'}@{k}?")
        if not slash:
            return metric(name, k, setting)
        metric(f"{base}@1", k, setting)  # refuses an unknown base before its argument is judged
        return self._against(name, base, argument, setting), cut_off(name, f"{base}/{argument}", cut, k, setting)

    def used(self, names: Iterable[str]) -> dict[str, dict[str, dict[str, float]]]:
        """The settings that metrics of these names depend on, by kind; nothing for those that depend on none."""
        bases = {"distributions": AGAINST, "boosts": (BOOST,)}
        used = {
            kind: {
                name: dict(weights)
                for name, weights in given.items()
                if any(metric.startswith(tuple(f"{base}/{name}@" for base in bases[kind])) for metric in names)
            }
            for kind, given in self._given.items()
        }
        return {kind: settings for kind, settings in used.items() if settings}

    def _boost(self, name: str, boost: str, setting: str) -> Metric:
        if boost in self._boosts:
            return self._boosts[boost]
        if not self._boosts:
            raise UserError(f"{setting} {name!r}: reward.boosts has no {boost!r}; it is empty")
        raise UserError(
            f"{setting} {name!r}: reward.boosts has no {boost!r}; did you mean "
            f"{BOOST}/{nearest(boost, self._boosts)}@N?"
        )

    def _against(self, name: str, base: str, against: str, setting: str) -> Metric:
        if against not in self._distributions:
            known = ", ".join(self._distributions) or "none"
            raise UserError(f"{setting} {name!r}: reward.distributions has no {against!r}; it has {known}")
        if base not in AGAINST:
            raise UserError(f"{setting} {name!r}: only mgu and dgu are measured against a distribution")
        function: Metric = getattr(self._distributions[against], base)
        return function
