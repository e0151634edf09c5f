"""The held-out numbers of the weights that are exported, from the run's evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from blade_dist.evaluation.bootstrap import Interval
from blade_dist.evaluation.per_user import intervals
from blade_dist.settings import EvaluateSettings
from blade_dist.store.files import read_json


@dataclass(frozen=True)
class HeldOut:
    """Means and intervals by the way of decoding that is served."""

    policy: str
    """Name of the exported weights among the policies."""
    prompts: int
    users: int
    by_policy: dict[str, dict[str, Interval]]
    """Policy, then metric; the reward is one."""


def held_out(
    evaluation: Path, weights: str, lists: dict[str, Any], settings: EvaluateSettings, seed: int
) -> HeldOut | None:
    """The numbers, or None where the last evaluation was of other weights or of other lists.

    Args:
        evaluation: folder of the run's evaluation; may be missing.
        weights: digest of what is exported.
        lists: as the evaluation notes which lists it had written.
        settings: say what is served.
        seed: of the bootstrap.
    """
    summary = read_json(evaluation / "summary.json") or {}
    names = [name for name, digest in summary.get("weights", {}).items() if digest == weights]
    if not names or summary.get("lists") != lists:
        return None
    rows = pq.read_table(evaluation / "per_user.parquet")
    own = rows.filter((pc.field("decode") == settings.decode) & (pc.field("policy") == names[0]))
    numbers = intervals(rows, settings.decode, settings.bootstrap, seed)
    return HeldOut(names[0], own.num_rows, pc.count_distinct(own["user"]).as_py(), numbers)
