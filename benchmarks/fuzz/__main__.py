"""Hostile input, seeded: how many of so many inputs end neither in success nor in one clear line."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from benchmarks.fuzz.kinds import KINDS, Kind, prepare
from benchmarks.report import show, write_result
from blade_dist.errors import UserError
from blade_dist.settings import Config

LIMIT_S = 30
"""An input that takes longer hangs."""
LONGEST = 700
"""Characters of a line that is still one."""

SETTING = re.compile(rf"\b({'|'.join(Config.model_fields)})\.[a-z_]+")
"""An error names a file or a setting."""


def main(
    inputs: Annotated[int, typer.Option(help="How many, over all kinds.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Counts the inputs that end in anything but success or one clear line.

    Examples:

      python -m benchmarks.fuzz --inputs 10000 --seed 0 --json fuzz.json
    """
    results = fuzz(inputs, seed)
    show("fuzz", {name: value for name, value in results.items() if name != "examples"}, {"unclear": 0})
    for kind, example in results["examples"].items():
        typer.echo(f"{kind}: {example}")
    write_result(json, "fuzz", {"inputs": inputs, "seed": seed}, results)


def fuzz(inputs: int, seed: int) -> dict[str, Any]:
    """The counts, and of each kind with an unclear end the first one."""
    logging.disable(logging.CRITICAL)
    began, ends, examples = time.perf_counter(), {kind: Counter[str]() for kind in KINDS}, {}
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
            good, bad = Path(folder) / "good", Path(folder) / "bad"
            good.mkdir()
            prepare(good)
            for number in range(inputs):
                name = list(KINDS)[number % len(KINDS)]
                bad.mkdir()
                made = KINDS[name].make(good, bad, Random(f"{seed} {number}"))
                end, said = _end(KINDS[name], bad)
                shutil.rmtree(bad)
                ends[name][end] += 1
                if end == "unclear":
                    examples.setdefault(name, f"input {number} ({made}): {said}".replace(folder, ""))
    finally:
        logging.disable(logging.NOTSET)
    return {
        "inputs": inputs,
        "unclear": sum(of_kind["unclear"] for of_kind in ends.values()),
        "by_kind": {kind: {end: of_kind[end] for end in ("ok", "clear", "unclear")} for kind, of_kind in ends.items()},
        "examples": examples,
        "seconds": time.perf_counter() - began,
    }


def _end(kind: Kind, bad: Path) -> tuple[str, str]:
    """``ok``, ``clear`` or ``unclear``, and what was said."""
    try:
        with _limited():
            kind.use(bad)
    except UserError as error:
        text = str(error)
        clear = "\n" not in text and len(text) <= LONGEST and (str(bad) in text or SETTING.search(text) is not None)
        return "clear" if clear else "unclear", text[:LONGEST]
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((frame for frame in reversed(frames) if "blade_dist" in frame.filename), frames[-1])
        return "unclear", f"{type(error).__name__} at {Path(ours.filename).name}:{ours.lineno}: {str(error)[:300]}"
    return "ok", ""


@contextmanager
def _limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"nothing after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    typer.run(main)
