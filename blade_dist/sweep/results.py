"""Outcomes of a sweep's points: numbers of each, their order, the table, the files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from blade_dist.store.files import whole_file, write_json
from blade_dist.sweep.space import Point, text
from blade_dist.tracking.means import mean_of_last

Criterion = Literal["reward", "validation"]
"""What points are compared by; more is better."""

LATER_HALF = 0.5
"""Share of the steps so far, the later ones, whose mean a running point is compared by."""

ENDS = ("whole", "stopped", "failed")
"""How an alignment may end, the best way first."""


@dataclass(frozen=True)
class Outcome:
    """How one point ended, and its steps."""

    point: Point
    ended: Literal["whole", "stopped", "failed"]
    """``stopped``: early, as others were better after as many steps."""
    rows: Sequence[Mapping[str, Any]]
    """Its step log."""
    error: str | None = None

    def numbers(self) -> dict[str, float]:
        """Steps; means over the last tenth of them; the best validation reward, where there is one."""
        names = dict.fromkeys(name for row in self.rows for name in row if _shown(name))
        means = {name: mean_of_last([row[name] for row in self.rows]) for name in names}
        best = value_of("validation", self.rows)
        return {"steps": len(self.rows), **means, **({} if best is None else {"validation": best})}


def value_of(by: Criterion, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The value of a point after these steps: its late reward, or its best validation; None where it has none yet."""
    if by == "reward":
        return mean_of_last([row["reward"] for row in rows]) if rows else None
    seen = [row["validation"] for row in rows if row.get("validation") is not None]
    return max(seen, default=None)


def value_so_far(by: Criterion, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The value of a point that is still running: as :func:`value_of`, but the reward's mean over the later half.

    A tenth of few steps is one or two of them, whose rewards differ more by their prompts than by the settings.
    """
    return mean_of_last([row["reward"] for row in rows], LATER_HALF) if by == "reward" and rows else value_of(by, rows)


def ranked(outcomes: Sequence[Outcome], by: Criterion) -> list[list[Outcome]]:
    """Groups of outcomes whose points differ in their seed alone; the best mean over the seeds first.

    Groups with one that was stopped early (whose steps are others) come after those that are whole, failed ones last.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.point.seedless.label, []).append(outcome)

    def worth(group: Sequence[Outcome]) -> tuple[int, float]:
        values = [value_of(by, outcome.rows) for outcome in _counted(group)]
        mean = statistics.fmean(math.nan if value is None else value for value in values)
        return max(ENDS.index(outcome.ended) for outcome in group), math.inf if math.isnan(mean) else -mean

    return sorted(groups.values(), key=worth)


def render(groups: Sequence[Sequence[Outcome]], by: Criterion, parts: bool) -> Table:
    """A row per group, in the order given; of several seeds the mean and, in brackets, the least and the largest value.

    ``parts``: with the reward's parts.
    """
    seeds = any(len(group) > 1 for group in groups)
    settings = [(group[0].point.seedless if seeds else group[0].point).settings for group in groups]
    numbers = [[outcome.numbers() for outcome in _counted(group)] for group in groups]
    known = dict.fromkeys(name for group in numbers for entry in group for name in entry)
    columns = [name for name in known if parts or not name.startswith("reward/")]
    names = list(dict.fromkeys(name for changed in settings for name in changed))
    title = f"sweep, by {by}; means of the last tenth of the steps" + ", over the seeds" * seeds
    table = Table(*names, *["seeds"] * seeds, *columns, "ended", title=title)
    for group, changed, entries in zip(groups, settings, numbers, strict=True):
        count = [str(len(entries)) if len(entries) == len(group) else f"{len(entries)} of {len(group)}"] * seeds
        values = [_short(name, [entry[name] for entry in entries if name in entry]) for name in columns]
        ended = ", ".join(dict.fromkeys(_ended(outcome) for outcome in group))
        table.add_row(*(escape(text(changed[name])) for name in names), *count, *values, escape(ended))
    return table


def write_results(outcomes: Sequence[Outcome], by: Criterion, folder: Path) -> None:
    """Writes ``results.json`` and ``results.parquet``, atomically: an entry per alignment.

    A column of the latter has one type: settings of mixed kinds are text there.
    """
    entries = [{"ended": outcome.ended, "error": outcome.error, **outcome.numbers()} for outcome in outcomes]
    settings = [dict(outcome.point.settings) for outcome in outcomes]
    listed = [{"settings": changed, **entry} for changed, entry in zip(settings, entries, strict=True)]
    write_json(folder / "results.json", {"by": by, "points": listed})
    flat = [{**changed, **entry} for changed, entry in zip(settings, entries, strict=True)]
    columns = {name: [entry.get(name) for entry in flat] for name in dict.fromkeys(n for entry in flat for n in entry)}
    with whole_file(folder / "results.parquet") as temporary:
        pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), temporary)


def _counted(group: Sequence[Outcome]) -> Sequence[Outcome]:
    """Those whose numbers are the group's: the whole ones, or all where none is whole."""
    return [outcome for outcome in group if outcome.ended == "whole"] or group


def _ended(outcome: Outcome) -> str:
    return {"stopped": "stopped early", "failed": outcome.error or "failed"}.get(outcome.ended, outcome.ended)


def _column(values: Sequence[Any]) -> pa.Array:
    numbers = all(value is None or isinstance(value, int | float) for value in values)
    plain = values if numbers else [v if v is None or isinstance(v, str) else text(v) for v in values]
    return pa.array(plain)


def _shown(name: str) -> bool:
    return name in ("reward", "informative_groups", "kl") or name.startswith("reward/")


def _short(name: str, values: Sequence[float]) -> str:
    """The mean, and the range where there is one."""
    if not values:
        return "-"
    least, most = (str(int(end)) if name == "steps" else f"{end:.4f}" for end in (min(values), max(values)))
    if least == most:
        return least
    return f"{least} to {most}" if name == "steps" else f"{statistics.fmean(values):.4f} ({least} to {most})"
