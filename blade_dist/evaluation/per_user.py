"""Per-user rows, their summary with intervals, and the table that is printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from blade_dist.batches import Prompts
from blade_dist.evaluation.bootstrap import Interval, Resamples
from blade_dist.evaluation.corpus import corpus_metrics
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.direction import arrow
from blade_dist.rewards.lists import Lists

KEYS = ("user", "prompt", "policy", "decode", "items")
"""Columns that are no metric."""

FRAME = 3
"""Characters around the text of a table's column."""


def per_user_rows(
    policy: str, decode: str, prompts: Prompts, lists: Lists, metrics: Composite, reward: Composite
) -> pa.Table:
    """One row per prompt: user, prompt, policy, decode, the list's items, reward and every metric."""
    columns = {
        "user": pa.array(prompts.user.astype(str)),
        "prompt": pa.array(prompts.index),
        "policy": pa.array([policy] * len(prompts)),
        "decode": pa.array([decode] * len(prompts)),
        "items": pa.array(list(lists.items), pa.list_(pa.int32())),
        "reward": pa.array(reward.score(lists)[0]),
    }
    return pa.table({**columns, **{name: pa.array(v) for name, v in metrics.score(lists)[1].items()}})


def summarise(rows: pa.Table, lists: dict[tuple[str, str], Lists], decode: str) -> dict[str, dict[str, float]]:
    """Means of every metric, and the corpus-wide metrics, by policy."""
    return {
        policy: {name: float(np.mean(part[name])) for name in metric_names(rows)}
        | corpus_metrics(lists[policy, decode])
        for policy, part in _by_policy(rows, decode).items()
    }


def differences(
    rows: pa.Table, decode: str, first: str, second: str, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """``first`` minus ``second`` per user: mean and 95 % interval of every metric.

    Raises:
        ValueError: they were not evaluated on the same prompts.
    """
    by_policy = _by_policy(rows, decode)
    a, b = by_policy[first], by_policy[second]
    if a["prompt"].tolist() != b["prompt"].tolist():
        raise ValueError(f"{first} and {second} were not evaluated on the same prompts")
    less = {name: a[name] - b[name] for name in metric_names(rows)}
    return {name: of.as_dict() for name, of in Resamples(a["user"], resamples, seed).each_mean(less).items()}


def metric_names(rows: pa.Table) -> list[str]:
    """``reward`` and every metric of the table."""
    return [name for name in rows.column_names if name not in KEYS]


def intervals(rows: pa.Table, decode: str, resamples: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Of each policy and metric: mean over prompts and 95 % interval over users."""
    return {
        policy: Resamples(part["user"], resamples, seed).each_mean({name: part[name] for name in metric_names(rows)})
        for policy, part in _by_policy(rows, decode).items()
    }


def render(
    title: str, by_policy: Mapping[str, Mapping[str, Interval]], weights: Mapping[str, float], width: int
) -> list[Table]:
    """A column per policy, a row per metric: mean over prompts and 95 % interval over users.

    Args:
        title: of the first table; columns that have no room in it stand in another one below.
        by_policy: see :func:`intervals`.
        weights: of the reward; by their sign an arrow shows which way a metric is better.
        width: characters that a table may have.
    """
    names = {name: arrow(name, weights) for of in by_policy.values() for name in of}
    first = max(map(len, names.values())) + FRAME + 1
    widths = {
        policy: max(len(policy), *(len(_range(cell)) for cell in of.values())) + FRAME
        for policy, of in by_policy.items()
    }
    parts = _side_by_side(widths, width - first)
    return [_means(title if not number else None, part, by_policy, names) for number, part in enumerate(parts)]


def _means(
    title: str | None, policies: list[str], by_policy: Mapping[str, Mapping[str, Interval]], names: Mapping[str, str]
) -> Table:
    table = Table(title=title, show_lines=True)
    table.add_column("", no_wrap=True, min_width=max(map(len, names.values())))
    for policy in policies:
        table.add_column(policy, justify="right", no_wrap=True)
    for name, shown in names.items():
        cells = [by_policy[policy][name] for policy in policies]
        table.add_row(shown, *(f"{cell.mean:.4f}\n{_range(cell)}" for cell in cells))
    return table


def _side_by_side(widths: Mapping[str, int], room: int) -> list[list[str]]:
    """The columns in their order, as many in a table as have room in it, and one at least."""
    parts: list[list[str]] = []
    left = 0
    for name, wide in widths.items():
        if not parts or wide > left:
            parts.append([])
            left = room
        parts[-1].append(name)
        left -= wide
    return parts


def render_means(
    rows: pa.Table, decode: str, policies: list[str], weights: Mapping[str, float], width: int, title: str
) -> list[Table]:
    """A row for each of the policies, a column per metric: how one thing is traded for another.

    ``width``: characters that a table may have; columns that have no room in it stand in another one below. ``title``:
    of the first table.
    """
    names = {name: arrow(name, weights) for name in metric_names(rows)}
    by_policy = {policy: of for policy, of in _by_policy(rows, decode).items() if policy in policies}
    first = max(map(len, policies)) + FRAME + 1
    tables: list[Table] = []
    for part in _side_by_side({name: max(len(shown), 6) + FRAME for name, shown in names.items()}, width - first):
        tables.append(table := Table(title=None if tables else title))
        table.add_column("", no_wrap=True)
        for name in part:
            table.add_column(names[name], justify="right", no_wrap=True)
        for policy in policies:
            table.add_row(policy, *(f"{np.mean(by_policy[policy][name]):.4f}" for name in part))
    return tables


def render_differences(title: str, intervals: dict[str, dict[str, float]], weights: Mapping[str, float]) -> Table:
    """One row per metric: mean of the paired differences and its 95 % interval."""
    table = Table(title=title)
    table.add_column("", no_wrap=True)
    table.add_column("mean difference", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, interval in intervals.items():
        table.add_row(arrow(name, weights), f"{interval['mean']:+.4f}", _range(Interval(**interval)))
    return table


def _range(interval: Interval) -> str:
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def _by_policy(rows: pa.Table, decode: str) -> dict[str, dict[str, Any]]:
    """Columns of each policy as numpy arrays, in the order of prompts."""
    chosen = rows.filter(pc.equal(rows["decode"], decode))
    parts = {}
    for policy in dict.fromkeys(chosen["policy"].to_pylist()):
        part = chosen.filter(pc.equal(chosen["policy"], policy)).sort_by("prompt")
        parts[policy] = {
            name: part[name].to_numpy(zero_copy_only=False) for name in part.column_names if name != "items"
        }
    return parts
