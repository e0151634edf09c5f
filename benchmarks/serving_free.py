"""What legality costs the served checkpoint: engines of the same options with it and without it, per token.

Runs as a process of its own, with all cores and without HTTP: ``python -m benchmarks.serving_free EXPORT JSON``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_export import HeldOut, held_out, in_own_process
from benchmarks.trie import generation_speed, start_engines
from blade_dist.batches import MISS
from blade_dist.rollouts.environment import make_ready
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.serving.opened import EngineOptions, OpenedExport, open_export

PROMPTS = 64
"""Greedy lists that are written at once."""
REPEATS = 5


def without_legality(export: Path) -> dict[str, Any]:
    """Tokens per second without legality and with it; what is missing in free lists, and how accurate they are."""
    return in_own_process(__name__, export)


def make_request(opened: OpenedExport, users: HeldOut) -> RolloutRequest:
    """A greedy list for each of the first prompts."""
    rows = np.arange(min(PROMPTS, len(users.prompts)))
    part = users.prompts.take(rows)
    excluded = part.excluded(opened.manifest.lists.exclude_history)
    return RolloutRequest(rows, opened.codec.encode_prompts(part.history), excluded, np.zeros_like(rows), 1, 0.0)


def main(export: Path, out: Path) -> None:
    """Measures both."""
    make_ready(threads=None)
    opened, users = open_export(export), held_out(export.parent)
    engines, request = start_engines(opened.spec(EngineOptions())), make_request(opened, users)
    speed = generation_speed(engines, request, REPEATS)
    items = engines["none"].generate(request).items[:, 0]
    accuracy = users.accuracy_of(dict(enumerate(items.tolist())))
    out.write_text(json.dumps(speed | {"missing": float((items == MISS).mean()), **accuracy}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
