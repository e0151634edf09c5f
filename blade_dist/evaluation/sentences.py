"""A comparison in one sentence: what became better and worse, by how much, and what did not change measurably. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blade_dist.evaluation.bootstrap import Interval
from blade_dist.rewards.direction import direction, words

MOST = 3
"""Metrics that are named beside each other."""


def comparison(first: str, second: str, found: Mapping[str, Interval], weights: Mapping[str, float]) -> str:
    """The lists of ``first`` against those of ``second``.

    >>> found = {"ild@5": Interval(0.046, 0.040, 0.052), "ndcg@5": Interval(-0.001, -0.004, 0.002)}
    >>> comparison("blade", "sft", found, {})
    "blade's lists are more diverse than sft's (ild@5 +.046 [.040, .052]), at no measurable loss of ndcg@5"

    Args:
        first: a policy.
        second: another one.
        found: ``first`` minus ``second``, by metric; a metric that has no better direction is left out, and so is the
            reward, which is made of others.
        weights: of the reward; the sign says which way a metric is better.
    """
    judged = {name: interval for name, interval in found.items() if name != "reward" and direction(name, weights)}
    # an interval that touches 0 shows no difference
    shown = {name: of for name, of in judged.items() if of.low > 0 or of.high < 0}
    better = [name for name, of in shown.items() if (of.mean > 0) == (direction(name, weights) > 0)]
    worse = [name for name in shown if name not in better]
    same = [name for name in judged if name not in shown]
    if not shown:
        numbers = "; ".join(f"{name} {_number(judged[name])}" for name in same[:MOST])
        numbers = numbers or "nothing that was measured has a better direction"
        return f"{_whose(first)} and {_whose(second)} lists do not differ measurably ({numbers})"
    if not better:
        return f"{_whose(first)} lists are {_said(worse, shown, 1, second)}, and better in nothing that was measured"
    said = f"{_whose(first)} lists are {_said(better, shown, 0, second)}"
    if worse:
        return f"{said}, but {_said(worse, shown, 1, None)}"
    return said + (f", at no measurable loss of {_listed(same[:MOST])}" if same else ", and worse in nothing")


def _said(names: Sequence[str], found: Mapping[str, Interval], side: int, second: str | None) -> str:
    """``more diverse and fairer than sft's (ild@5 ...; mgu@5 ...)``: the first number of each word."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(words(name)[side], name)
    numbers = "; ".join(f"{name} {_number(found[name])}" for name in first.values())
    than = f" than {_whose(second)}" if second else ""
    return f"{_listed(list(first))}{than} ({numbers})"


def _whose(name: str) -> str:
    return f"{name}'" if name.endswith("s") else f"{name}'s"


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _number(interval: Interval) -> str:
    return f"{_short(f'{interval.mean:+.3f}')} [{_short(f'{interval.low:.3f}')}, {_short(f'{interval.high:.3f}')}]"


def _short(number: str) -> str:
    """Without the 0 before the point: numbers of metrics are below 1, mostly."""
    sign, digits = (number[0], number[1:]) if number[0] in "+-" else ("", number)
    return sign + (digits[1:] if digits.startswith("0.") else digits)
