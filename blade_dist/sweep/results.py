"""What came of a sweep's points: numbers of each, the table, the files. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from blade_dist.artifacts import write_json
from blade_dist.sweep.space import Point, text

Criterion = Literal["reward", "validation"]
"""What points are compared by; more is better."""

LAST = 0.1
"""Share of the steps, at the end, that numbers are means of;"""

HALF = 0.5
"""of those so far, where a point is looked at on its way."""


@dataclass(frozen=True)
class Outcome:
    """What came of one point."""

    point: Point
    ended: Literal["whole", "stopped", "failed"]
    """``stopped``: early, as others were better by then."""
    rows: Sequence[Mapping[str, Any]]
    """Of its step log."""
    error: str | None = None

    def numbers(self) -> dict[str, float]:
        """Steps; means over the last tenth of them; the best validation reward, where there is one."""
        names = dict.fromkeys(name for row in self.rows for name in row if _shown(name))
        means = {name: mean_of_last([row[name] for row in self.rows]) for name in names}
        best = value_of("validation", self.rows)
        return {"steps": len(self.rows), **means, **({} if best is None else {"validation": best})}


def mean_of_last(values: Sequence[float], share: float = LAST) -> float:
    """Mean of the last ``share`` of the values, of one at least."""
    return statistics.fmean(values[-max(1, round(share * len(values))) :])


def value_of(by: Criterion, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """What a point is worth after these steps: its late reward, or its best validation; None where it is not known."""
    if by == "reward":
        return mean_of_last([row["reward"] for row in rows]) if rows else None
    seen = [row["validation"] for row in rows if row.get("validation") is not None]
    return max(seen, default=None)


def value_so_far(by: Criterion, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """What a point is compared by on its way: as :func:`value_of`, but the reward's mean over the later half.

    A tenth of few steps is one or two of them, whose rewards differ more by their prompts than by the settings.
    """
    return mean_of_last([row["reward"] for row in rows], HALF) if by == "reward" and rows else value_of(by, rows)


def ranked(outcomes: Sequence[Outcome], by: Criterion) -> list[Outcome]:
    """The best first, those that were stopped early (whose steps are others) after the whole ones, failed ones last."""

    def worth(outcome: Outcome) -> tuple[int, float]:
        value = value_of(by, outcome.rows)
        rank = ("whole", "stopped", "failed").index(outcome.ended)
        return rank, math.inf if value is None or math.isnan(value) else -value

    return sorted(outcomes, key=worth)


def render(outcomes: Sequence[Outcome], by: Criterion, parts: bool) -> Table:
    """A row per point, in the order given; ``parts``: with the reward's parts."""
    numbers = [outcome.numbers() for outcome in outcomes]
    known = list(dict.fromkeys(name for found in numbers for name in found))
    columns = [name for name in known if parts or not name.startswith("reward/")]
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.point.settings))
    table = Table(*names, *columns, "ended", title=f"sweep, by {by}; means of the last tenth of the steps")
    for outcome, found in zip(outcomes, numbers, strict=True):
        values = [_short(name, found.get(name)) for name in columns]
        ended = {"stopped": "stopped early", "failed": outcome.error}.get(outcome.ended, outcome.ended)
        table.add_row(*(text(outcome.point.settings[name]) for name in names), *values, ended)
    return table


def write_results(outcomes: Sequence[Outcome], by: Criterion, folder: Path) -> None:
    """``results.json`` and ``results.parquet``, atomically; the latter has settings of mixed kinds as text."""
    found = [{"ended": outcome.ended, "error": outcome.error, **outcome.numbers()} for outcome in outcomes]
    settings = [dict(outcome.point.settings) for outcome in outcomes]
    listed = [{"settings": own, **entry} for own, entry in zip(settings, found, strict=True)]
    write_json(folder / "results.json", {"by": by, "points": listed})
    flat = [{**own, **entry} for own, entry in zip(settings, found, strict=True)]
    columns = {name: [entry.get(name) for entry in flat] for name in dict.fromkeys(n for entry in flat for n in entry)}
    temporary = folder / "results.parquet.tmp"
    pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), temporary)
    temporary.replace(folder / "results.parquet")


def _column(values: Sequence[Any]) -> pa.Array:
    numbers = all(value is None or isinstance(value, int | float) for value in values)
    plain = values if numbers else [v if v is None or isinstance(v, str) else text(v) for v in values]
    return pa.array(plain)


def _shown(name: str) -> bool:
    return name in ("reward", "informative_groups", "kl") or name.startswith("reward/")


def _short(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return str(int(value)) if name == "steps" else f"{value:.4f}"
