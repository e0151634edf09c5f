"""``blade-dist recommend``: an export's lists for one history, or for a file of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from blade_dist.errors import UserError
from blade_dist.serving.opened import EngineOptions, OpenedExport, open_export
from blade_dist.serving.parts import HistoryFile, Job
from blade_dist.serving.recommend import Recommender
from blade_dist.serving.request import Resolver, answer, notes
from blade_dist.serving.start import start_recommender
from blade_dist.serving.table import Progress, recommend_file, with_engine
from blade_dist.tracking.say import last_lines, say, say_whole, show_table

SAY_EVERY = 10.0
"""Seconds between two lines of progress."""
WIDTH = 120


@dataclass(frozen=True)
class Spread:
    """Engines on Ray."""

    count: int
    threads: int | None
    """Cores of each; None shares them out."""


def say_new(opened: OpenedExport, console: Console) -> None:
    """Says how many of the items the policy was not trained with, where there are any."""
    if (day := opened.manifest.day) is not None and day.new:
        say(console, f"recommend: {day.new:,} of {day.on_sale:,} items came after the training")


def recommend_one(
    served: Path, request: dict[str, Any], options: EngineOptions, as_json: bool, console: Console
) -> None:
    """Prints the list of one request: a table, or JSON.

    Raises:
        UserError: no whole export there; a request that can't be answered; no engine is started then.
    """
    opened = open_export(served)
    resolver = Resolver(opened)
    resolved = resolver.resolve([resolver.parse(request, "--")], ["--"])
    recommender = start_recommender(opened, options)
    ((items, logprobs),) = recommender.lists(resolved)
    answered = answer(opened, resolved[0], items.tolist(), logprobs.tolist())
    if as_json:
        say_whole(console, json.dumps(answered, ensure_ascii=False))
        return
    say_new(opened, console)
    for line in notes(answered):
        say(console, f"recommend: {line}")
    table = Table()
    for head in ("", "id", "title", "log-prob"):
        table.add_column(head, justify="right" if head in ("", "log-prob") else "left")
    for place, item in enumerate(answered["items"], start=1):
        table.add_row(str(place), _shown(item["id"]), _shown(item["title"]), f"{item['logprob']:.3f}")
    show_table(console, table, WIDTH)


def recommend_many(
    served: Path,
    histories: Path,
    out: Path,
    given: dict[str, Any],
    options: EngineOptions,
    engines: Spread | None,
    console: Console,
) -> None:
    """Writes a list for every row of a file.

    Args:
        served: the export.
        histories: the file.
        out: the file of the lists.
        given: fields of every request that has none of its own.
        options: of each engine.
        engines: how many, on Ray; None is one in this process.
        console: for messages.

    Raises:
        UserError: no whole export there; a file that can't be read or written; a row that can't be answered.
    """
    opened, file = open_export(served), HistoryFile(histories)
    say_new(opened, console)
    said = [0.0]

    def engine() -> Recommender:
        say(console, f"recommend: {len(file):,} histories; starting the engine")
        return start_recommender(opened, options)

    def spread(job: Job, missing: Sequence[int]) -> Iterator[int]:
        from blade_dist.serving.spread import write_spread  # one engine needs no Ray, which takes a second to import
        from blade_dist.stages.room import joined

        assert engines is not None
        with joined(engines.count, options, engines.threads, "--engines") as room:
            say(console, f"recommend: {len(file):,} histories; starting {engines.count} engines")
            yield from write_spread(served.absolute(), options, engines.count, room.threads, room.gpu, job, missing)

    def show(progress: Progress) -> None:
        if time.monotonic() - said[0] < SAY_EVERY and progress.done < progress.rows:
            return
        said[0] = time.monotonic()
        left = (progress.rows - progress.done) / progress.per_second
        say(
            console,
            f"recommend: {progress.done:,} of {progress.rows:,} lists, {progress.per_second:,.1f} lists/s, "
            f"{left:,.0f} s left",
        )

    skipped = recommend_file(spread if engines else with_engine(engine), Resolver(opened), file, out, given, show)
    unknown = f"; {skipped:,} ids of histories are no items and were skipped" if skipped else ""
    say(last_lines(console), f"recommend: {len(file):,} lists -> {out}{unknown}")


def limits(given: Sequence[str]) -> dict[str, int]:
    """Of ``GROUP=N``, as the command line has them.

    Raises:
        UserError: one that is written otherwise.
    """
    pairs = [text.rpartition("=") for text in given]
    for text, (group, _, number) in zip(given, pairs, strict=True):
        if not group or not number.isdecimal():
            raise UserError(f"--at-most {text!r}: write GROUP=N, as Drama=2")
    return {group: int(number) for group, _, number in pairs}


def _shown(text: str) -> str:
    """Without what a terminal would act on."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
