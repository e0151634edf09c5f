"""A peer on the same work: TRL's GRPOTrainer (``peer_trl.py``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.workload import Workload
from blade_dist.errors import UserError

ROOT = Path(__file__).parents[1]
"""Where ``-m benchmarks.peer_trl`` can be imported."""


def measure_peer(work: Workload, steps: int) -> dict[str, Any]:
    """TRL on the same work, in a process of its own, with huge pages for large tensors as ours has them.

    Raises:
        UserError: it is not installed, or fails.
    """
    options = ["--workload", json.dumps(asdict(work)), "--steps", str(steps)]
    command = [sys.executable, "-m", "benchmarks.peer_trl", *options]
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise UserError(f"--peer trl: it failed: {last} (pip install 'blade-dist[peer]' installs it)")


def beside_peer(result: dict[str, Any], lists_per_second: float, work: Workload, steps: int) -> dict[str, Any]:
    """``result`` with TRL's numbers and the ratio of ours to them, or with why there are none."""
    try:
        trl = measure_peer(work, steps)
    except UserError as error:
        return result | {"trl": str(error)}
    return result | {"trl": trl, "ratio_vs_trl": lists_per_second / trl["lists_per_second"]}
