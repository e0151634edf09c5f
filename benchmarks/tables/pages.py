"""Fills the tables of a Markdown page.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; what is between is replaced. The numbers are those
of the JSON files in ``benchmarks/results``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import aligned, movielens, probe, quickstart, ranking, serving, speed, synthetic
from benchmarks.tables.text import Result, Rows, markdown

RESULTS = Path(__file__).parents[1] / "results"
BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str, place: str = "cpu") -> Result:
    """A result file."""
    return json.loads((RESULTS / place / f"{name}.json").read_text(), object_hook=_renamed)


def _renamed(of: Result) -> Result:
    """Results that were recorded while the decode ``list`` was called greedy."""
    names = {"list" if name == "greedy" else name: value for name, value in of.items()}
    return names | ({"decode": "list"} if names.get("decode") == "greedy" else {})


def _all(place: str) -> dict[str, Result]:
    return {path.stem: load(path.stem, place) for path in (RESULTS / place).glob("*.json")}


def _of(rows: Callable[..., Rows], name: str, *arguments: str) -> Callable[[], Rows]:
    """What a function makes of a result file."""
    return lambda: rows(load(name), *arguments)


def _once_recorded(rows: Callable[..., Rows], name: str) -> Callable[[], Rows]:
    """As :func:`_of`; nothing where the file is not there yet."""
    return lambda: rows(load(name)) if (RESULTS / "cpu" / f"{name}.json").exists() else []


TABLES: dict[str, Callable[[], Rows]] = {
    **{f"quickstart-{way}": _of(quickstart.policies, "quickstart", way) for way in ("list", "rank", "sampled")},
    "quickstart-difference": _of(quickstart.difference, "quickstart"),
    **{f"study-{name}": _of(rows, "synthetic") for name, rows in synthetic.TABLES.items()},
    **{f"movielens-{name}": _of(rows, "movielens") for name, rows in movielens.TABLES.items()},
    **{name: _of(ranking.ranking, name, preset) for name, preset in ranking.PRESETS.items()},
    **{f"{name}-minus": _of(ranking.minus, name) for name in ranking.PRESETS},
    **{name: _of(aligned.aligned, name) for name in aligned.PRESETS},
    "probe-scientific": _of(probe.rewards, "probe-scientific"),
    "speed": lambda: speed.speed(_all("cpu")),
    "endured": lambda: speed.endured(_all("cpu")),
    "gpu": lambda: speed.gpu(_all("gpu")),
    "seconds": _of(speed.step_seconds, "throughput"),
    "serving": _once_recorded(serving.ways, "serving"),
    "catalog": _once_recorded(serving.catalog, "catalog"),
}


def filled(text: str) -> str:
    """The text with every marked table written anew."""
    return BLOCK.sub(lambda block: block[1] + markdown(TABLES[block[2]]()) + block[3], text)
