"""A cell of a study: one alignment of one seed, and what of its settings each stage before it depends on."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

Changes = dict[str, Any]
"""Settings that are not the preset's, by their full names."""
FIRST = 0
"""The seed that learning rates are chosen on, and that every part with one seed is of."""
OF_DATA = ("data.",)
OF_REFERENCE = (*OF_DATA, "sft.")
OF_PRIOR = (*OF_REFERENCE, "reward.", "prior.size", "rollout.k", "train.prompts")
"""How the settings begin that data, reference and prior depend on: cells that are equal in them share these."""


@dataclass(frozen=True)
class Cell:
    """One alignment of one seed."""

    seed: int
    name: str
    """Of the table's row; cells of several seeds share it."""
    lr: float
    changes: Changes

    @property
    def target(self) -> str:
        return str(self.changes.get("target", "blade"))

    @property
    def settings(self) -> Changes:
        """All that this cell sets, by full names."""
        return {"run.seed": self.seed, "learner.lr": self.lr, **self.changes}

    @property
    def folder(self) -> str:
        return folder_name(f"{self.name} lr {self.lr:g}")


def only(changes: Changes, beginnings: tuple[str, ...]) -> Changes:
    """The changes whose names begin so."""
    return {name: value for name, value in changes.items() if name.startswith(beginnings)}


def folder_name(label: str) -> str:
    """The label without what a folder's name should not hold; a digest tells apart what then looks the same."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")
    return f"{plain[:80]}-{hashlib.sha256(label.encode()).hexdigest()[:4]}"
