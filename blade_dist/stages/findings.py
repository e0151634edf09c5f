"""What an evaluation found, as it is shown: what a first look needs on the terminal, and all of it in a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from blade_dist.evaluation.bootstrap import Interval
from blade_dist.evaluation.cold import ASKED, render_cold
from blade_dist.evaluation.decoding import HOW, RANK, Cost, decodes, render_costs
from blade_dist.evaluation.per_user import (
    differences,
    intervals,
    metric_names,
    render,
    render_differences,
    render_means,
)
from blade_dist.evaluation.sentences import comparison
from blade_dist.rewards.direction import direction, explain
from blade_dist.settings import Config
from blade_dist.store.files import write_text
from blade_dist.tracking.say import is_verbose, say, show_table

REPORT = "report.txt"
"""In the evaluation's folder: every table."""
HEAD = "mean over prompts, 95 % interval over users"
"""Of a table, behind what it is about."""
TABLE_WIDTH = 160
"""Characters of a line where no terminal says how many it has."""


@dataclass(frozen=True)
class Findings:
    """The numbers of one evaluation."""

    config: Config
    rows: pa.Table
    """See :func:`blade_dist.evaluation.per_user.per_user_rows`."""
    summary: dict[str, Any]
    names: list[str]
    """Of the policies: the first, and those that it is compared with."""
    simple: list[str]
    """Recommenders without a model, which write the same lists by every way of decoding."""
    reranked: list[str]
    """What was made of the reference's ranking."""
    costs: dict[tuple[str, str], Cost]
    """By policy and way of decoding."""
    trained: dict[str, list[str]]
    """Ways that a policy was trained for."""
    metrics: list[str]
    """What is reported; the first is the one that is looked at first."""

    def show(self, folder: Path, console: Console) -> None:
        """The lists that are served, everybody's beside each other; all tables where the console is verbose."""
        if known := explain(metric_names(self.rows)):
            say(console, f"evaluate: what lists are that are better by a metric: {known}")
        if is_verbose(console):
            self._show_all(console, _width(console))
            return
        served = self.config.evaluate.decode
        title = f"{served} ({HOW[served]}), which is served: mean over prompts"
        recommenders = [*self.names, *self.simple]
        for table in render_means(self.rows, served, recommenders, self._weights, _width(console), title):
            show_table(console, table, TABLE_WIDTH)
        for table in self._differences(served):
            show_table(console, table, TABLE_WIDTH)
        others = ", ".join(way for way in decodes(self.config) if way != served)
        say(
            console,
            f"evaluate: {folder / REPORT} has all tables: everybody's intervals, other ways of decoding ({others}), "
            "re-rankers, and what each costs",
        )

    def write(self, folder: Path) -> None:
        """Writes all tables to a file."""
        text = StringIO()
        self._show_all(Console(file=text, width=TABLE_WIDTH), TABLE_WIDTH)
        write_text(folder / REPORT, text.getvalue())

    def sentences(self) -> Iterator[str]:
        """How good the first policy is, then against each other one, and the best recommender without a model."""
        served, first = self.config.evaluate.decode, self.names[0]
        metric = self.metrics[0]
        sign = direction(metric, self._weights) or 1
        of = self._intervals(self.rows, served)
        own = of[first][metric]
        yield f"{first} has {metric} {own.mean:.4f} [{own.low:.3f}, {own.high:.3f}] by {served}, the way that is served"
        for other in [*self.names[1:], max(self.simple, key=lambda name: sign * of[name][metric].mean)]:
            found = differences(self.rows, served, first, other, *self._bootstrap)
            yield comparison(first, other, {name: Interval(**one) for name, one in found.items()}, self._weights)

    @property
    def _weights(self) -> dict[str, float]:
        return self.config.reward.directed

    @property
    def _bootstrap(self) -> tuple[int, int]:
        return self.config.evaluate.bootstrap, self.config.run.seed

    def _intervals(self, rows: pa.Table, way: str) -> dict[str, dict[str, Interval]]:
        return intervals(rows, way, *self._bootstrap)

    def _show_all(self, console: Console, width: int) -> None:
        for table in self._tables(width):
            show_table(console, table, TABLE_WIDTH)

    def _tables(self, width: int) -> Iterator[Table]:
        """For each way of decoding, for what was re-ranked, for the recommenders without a model, and the costs."""
        weights = self._weights
        apart = pc.is_in(self.rows["policy"], pa.array([*self.simple, *self.reranked], pa.string()))
        policies = self.rows.filter(pc.invert(apart))
        for way in decodes(self.config):
            yield from render(f"{way} ({HOW[way]}): {HEAD}", self._intervals(policies, way), weights, width)
            yield from self._differences(way)
            yield from self._cold(way, [*self.names, *self.simple])
            if way == RANK and self.reranked:
                names, title = [self.names[:2][-1], *self.reranked], f"{RANK}, re-ranked: mean over prompts"
                yield from render_means(self.rows, RANK, names, weights, width, title)
        without = self.rows.filter(pc.is_in(self.rows["policy"], pa.array(self.simple, pa.string())))
        found = self._intervals(without, self.config.evaluate.decode)
        yield from render(f"without a model: {HEAD}", found, weights, width)
        yield render_costs(self.costs, self.trained)

    def _differences(self, way: str) -> Iterator[Table]:
        """The first policy minus the one that it is compared with first; nothing where it stands alone."""
        if (key := difference_key(self.config, way)) in self.summary:
            title = f"{way}: {self.names[0]} minus {self.names[1]}, per user"
            yield render_differences(title, self.summary[key], self._weights)

    def _cold(self, way: str, policies: list[str]) -> Iterator[Table]:
        """Of items that were never trained on, where there are any."""
        by_policy = self.summary if way == self.config.evaluate.decode else self.summary.get(way, {})
        if ASKED in by_policy.get(policies[0], {}):
            yield render_cold(way, by_policy, policies)


def difference_key(config: Config, decode: str) -> str:
    """Of the summary: differences by a way of decoding."""
    return "difference" if decode == config.evaluate.decode else f"difference_{decode}"


def _width(console: Console) -> int:
    """Of a table that is shown there, characters."""
    return console.width if console.is_terminal else TABLE_WIDTH
