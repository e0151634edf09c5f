"""What is tried on a real log: targets, learning rates, rewards, and one setting changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.quality.cells import Cell

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
"""M that :data:`COMPARED` are compared with on every seed: static tells lists apart by the reference lists alone."""


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


def pareto_name(target: str, weights: dict[str, float]) -> str:
    """Of a target with a reward."""
    return " ".join([target, *(f"{weight:+g} {name}" for name, weight in weights.items())])
