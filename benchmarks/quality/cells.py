"""Cells of the quality table: one alignment each, of one seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

TARGETS: dict[str, dict[str, Any]] = {
    "static": {"target": "static"},
    "static, refreshed": {"target": "static", "prior.refresh_every": 20},
    "blade": {"target": "blade"},
    "bond": {"target": "bond"},
    "grpo": {"target": "grpo"},
    "best_of_n_sft": {"target": "best_of_n_sft"},
}
"""Rows of the main table, and the settings that make them."""
RATES = (5e-4, 1e-3, 2e-3)
"""Learning rates that every target is tried with, by validation reward on the first seed."""
FIRST = 0
"""The seed that learning rates are chosen on, and that the Pareto front and the sensitivity are of."""
PARETO_TARGETS = ("static", "blade", "grpo")
PARETO: dict[str, dict[str, float]] = {
    f"{metric}={weight:g}": {"ndcg@5": 1.0, metric: weight}
    for metric, weights in {"ild@5": (0.1, 0.3, 1.0), "mgu@5": (-1.0, -3.0)}.items()
    for weight in weights
}
"""Rewards of the Pareto front, besides the preset's own, by what is added to NDCG."""
SENSITIVITY: dict[str, tuple[Any, ...]] = {
    "posterior.tau": (0.05, 0.3, 0.6, 0.9, "auto"),
    "posterior.ties": ("le", "exact"),
    "prior.size": (8, 16, 32),
    "rollout.group_size": (4, 8, 16),
    "learner.bon_n": (4, 16, 64),
    "rollout.k": (5, 10),
}
"""BLADE with one setting changed at a time: tau, ties, M, G, N, items of a list in training."""
COMPARED = ("static", "blade")
REFERENCES = (4, 8, 16)
"""M that :data:`COMPARED` are compared with on every seed: static has nothing else to tell lists apart by."""
PRIOR = ("reward.", "prior.size", "rollout.k")
"""How those of a cell's settings begin that the prior depends on."""


@dataclass(frozen=True)
class Cell:
    """One alignment of one seed."""

    seed: int
    name: str
    """Of the table's row; cells of several seeds share it."""
    lr: float
    changes: dict[str, Any]
    """Settings that are not the preset's, by their full names."""

    @property
    def target(self) -> str:
        return str(self.changes.get("target", "blade"))

    @property
    def settings(self) -> dict[str, Any]:
        """All that this cell sets, by full names."""
        return {"run.seed": self.seed, "learner.lr": self.lr, **self.changes}

    @property
    def of_prior(self) -> dict[str, Any]:
        """The changes that its prior depends on."""
        return {name: value for name, value in self.changes.items() if name.startswith(PRIOR)}

    @property
    def folder(self) -> str:
        return folder_name(f"{self.name} lr {self.lr:g}")


def pareto_cells(seed: int, rates: dict[str, float], rewards: Sequence[dict[str, float]]) -> list[Cell]:
    """A cell for each target and reward, at the target's own learning rate."""
    return [
        Cell(seed, pareto_name(target, weights), rates[target], {"target": target, "reward.weights": weights})
        for target in PARETO_TARGETS
        for weights in rewards
    ]


def sensitivity_cells(plain: Cell, preset: Callable[[str], Any]) -> dict[str, dict[str, Cell]]:
    """Setting -> value -> the plain cell with it."""
    return {
        name: {str(value): changed(plain, name, value, preset) for value in values}
        for name, values in SENSITIVITY.items()
    }


def changed(plain: Cell, name: str, value: Any, preset: Callable[[str], Any]) -> Cell:
    """A cell of the main table with another value of a setting; itself where the preset has this value."""
    if value == preset(name):
        return plain
    return replace(plain, name=f"{plain.name} {name} {value}", changes={**plain.changes, name: value})


def folder_name(label: str) -> str:
    """The label without what a folder's name should not hold; a digest tells apart what then looks the same."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")
    return f"{plain}-{hashlib.sha256(label.encode()).hexdigest()[:4]}"


def pareto_name(target: str, weights: dict[str, float]) -> str:
    """Of a target with a reward."""
    return " ".join([target, *(f"{weight:+g} {name}" for name, weight in weights.items())])
