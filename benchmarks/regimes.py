"""The regimes of the synthetic study: what each one changes in ``presets/synthetic.yaml``, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
"""Learning rates that every target of the main regime is tried with."""
TARGETS = ("static", "blade", "grpo", "bond", "best_of_n_sft")
TAUS = (0.05, 0.3, 0.6, 0.9, 0.97, "auto")


@dataclass(frozen=True)
class Regime:
    """One setting of the study."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings that are not the preset's, by their full names."""
    reference: str = "main"
    """The regime whose reference policy it starts from."""


MAIN = Regime("main")
"""A reference that hardly knows the user, few prompts that are visited at every step, N = M = 32: the policy leaves the
range of the reference lists, where static alignment can't tell lists apart."""

TAU = Regime(
    "tau",
    {"reward.weights": {"truth:expected_ndcg": 1.0, "ild@5": 0.3}, "advantage.scale": "none", "learner.bon_n": 16},
)
"""Composite reward, advantages without division by their spread, the KL of N = 16. The proxy reward's size then counts
against the KL, and tau is the share of it that does not end at the best reference list: a small tau stops where static
does. (With ``advantage.scale: std`` every tau gives a group beyond the reference's range nearly the same
advantages.)"""

NOISE = Regime("noise", {"reward.weights": {"truth:expected_ndcg": 1.0, "truth:outliers": 1.0}})
"""Rare outliers of the reward's measurement, 20 times its range. Their size enters a raw reward's advantage; a rank
bounds it."""

TWO_LEVELS = Regime("levels", {"reward.weights": {"truth:likeliest_is_in": 1.0}})
"""Two reward levels: in a group that holds both, all monotone targets have the same advantages."""

WIDE = {
    "sft.epochs": 20,
    "sft.lr": 5e-3,
    "prior.size": 16,
    "train.prompts": 400,
    "train.prompts_per_step": 32,
    "learner.bon_n": 16,
    "evaluate.best_of": [16],
}
SEARCHED: dict[str, dict[str, float]] = {
    "expected_ndcg": {"truth:expected_ndcg": 1.0},
    "ild@5": {"ild@5": 1.0},
    "mgu@5": {"mgu@5": -1.0},
}
"""Metric to the reward that both the alignment and the search (Best-of-16 of the reference) go by."""


def search(metric: str) -> Regime:
    """A good reference, many prompts, and held-out users: one list of the policy against a search."""
    return Regime(f"search-{metric}", WIDE | {"reward.weights": SEARCHED[metric]}, "search")
