"""Which way each metric is better, and what a list is that has more or less of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Words = tuple[str, str]
"""Of lists that are better by a metric, and of lists that are worse."""

ACCURATE = ("more accurate", "less accurate")
FAIR = ("fairer to groups", "less fair to groups")
SAID: dict[str, Words] = {
    **dict.fromkeys(("ndcg", "recall", "hr", "mrr"), ACCURATE),
    **dict.fromkeys(
        ("expected_ndcg", "expected_recall"), ("more accurate by the ranker", "less accurate by the ranker")
    ),
    **dict.fromkeys(("ild", "ild_embedding"), ("more diverse", "less diverse")),
    "entropy": ("more varied", "less varied"),
    **dict.fromkeys(("mgu", "dgu"), FAIR),
    "calibration": ("better calibrated", "worse calibrated"),
    "excess": ("less crowded by one group", "more crowded by one group"),
    "novelty": ("more novel", "less novel"),
    "long_tail": ("richer in the long tail", "poorer in the long tail"),
}
"""By the metric's name without cut-off and argument."""

LESS_IS_BETTER = ("mgu", "dgu", "calibration", "excess")


def direction(name: str, weights: Mapping[str, float]) -> int:
    """1 where more is better, -1 where less is, 0 where nothing says so: a user's own function without a weight.

    Args:
        name: a metric, or ``reward``.
        weights: those of the reward, whose sign counts first.
    """
    if weight := weights.get(name, 0.0):
        return 1 if weight > 0 else -1
    if name == "reward":
        return 1
    base = _base(name)
    return -1 if base in LESS_IS_BETTER else int(base in SAID)


def arrow(name: str, weights: Mapping[str, float]) -> str:
    """The name, and an arrow to where it is better."""
    return f"{name} {('', '↑', '↓')[direction(name, weights)]}".rstrip()


def explain(names: Sequence[str]) -> str:
    """What lists are that are better by each metric; those of which nobody knows are left out.

    >>> explain(["ndcg@5", "hr@5", "mgu@5", "my_own"])
    'ndcg@5, hr@5: more accurate; mgu@5: fairer to groups'
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        if said := SAID.get(_base(name)):
            alike.setdefault(said[0], []).append(name)
    return "; ".join(f"{', '.join(of)}: {word}" for word, of in alike.items())


def words(name: str) -> Words:
    """What lists are that are better by the metric, and what those are that are worse."""
    return SAID.get(_base(name), (f"better by {name}", f"worse by {name}"))


def _base(name: str) -> str:
    return name.partition("@")[0].partition("/")[0]
