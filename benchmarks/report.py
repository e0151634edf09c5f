"""What every benchmark shares: hardware and versions beside the numbers, one JSON form, written atomically."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from blade_dist.nodes.versions import PACKAGES, versions
from blade_dist.store.files import write_text

HEAD = ("benchmark", "when", "hardware", "versions", "settings")
"""What a result file has besides its results."""


def write_result(path: Path | None, benchmark: str, settings: dict[str, Any], results: dict[str, Any]) -> None:
    """Writes ``{benchmark, when, hardware, versions, settings, **results}`` (None: nowhere)."""
    if path is None:
        return
    record = {
        "benchmark": benchmark,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions([*PACKAGES, "trl"]),
        "settings": settings,
        **results,
    }
    write_text(path, dumps(json.loads(json.dumps(record, default=float), parse_float=_rounded)) + "\n")


def show(title: str, numbers: Mapping[str, Any], goals: Mapping[str, Any] | None = None) -> None:
    """Prints a line for each number, its goal beside it; the parts of a number have a line each."""
    table = Table("", "measured", *(["goal"] if goals else []), title=title)
    for name, value in numbers.items():
        if name in ("goal", "goals"):  # they are a column
            continue
        for part, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            goal = [str(goals.get(name, ""))] if goals else []
            table.add_row(f"{name} {part}".strip(), _written(number), *goal)
    Console().print(table)


def _written(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _rounded(number: str) -> float:
    """Ten significant digits: far finer than anything measured, and half as long as all of them."""
    return float(f"{float(number):.10g}")


def dumps(value: Any, lines: int = 3, indent: str = "") -> str:
    """JSON with a line for each entry of the outer ``lines`` levels, so that an interval takes one line."""
    if lines == 0 or not value or not isinstance(value, dict | list):
        return json.dumps(value)
    within = indent + " "
    inner = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    parts = [
        within + (f"{json.dumps(str(key))}: " if key is not None else "") + dumps(item, lines - 1, within)
        for key, item in inner
    ]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n" + ",\n".join(parts) + f"\n{indent}{last}"


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs of this machine."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"cpu": _processor(), "cores": len(os.sched_getaffinity(0)), "memory_gib": memory, "gpus": gpus}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
