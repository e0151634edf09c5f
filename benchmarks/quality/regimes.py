"""The regimes of the synthetic study: what each one changes in ``presets/synthetic.yaml``, and why."""

from __future__ import annotations

from benchmarks.quality.cells import Changes

TRUE_NDCG = "benchmarks.quality.ground_truth:expected_ndcg"
"""The reward that knows how the log was generated."""
LIKELIEST = "benchmarks.quality.ground_truth:likeliest_is_in"
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
"""Learning rates that every target of the main regime is tried with."""
TARGETS = ("static", "blade", "grpo", "bond", "best_of_n_sft")
TAUS = (0.05, 0.3, 0.6, 0.9, 0.97, "auto")

MAIN: Changes = {}
"""A reference that hardly knows the user, few prompts that are visited at every step, N = M = 32: the policy leaves the
range of the reference lists, where static alignment can't tell lists apart."""

TAU: Changes = {"reward.weights": {TRUE_NDCG: 1.0, "ild@5": 0.3}, "advantage.scale": "none", "learner.bon_n": 16}
"""Composite reward, advantages without division by their spread, the KL of N = 16. The proxy reward's size then counts
against the KL, and tau is the share of it that does not end at the best reference list: a small tau stops where static
does. (With ``advantage.scale: std`` every tau gives a group beyond the reference's range nearly the same
advantages.)"""

NOISE: Changes = {"reward.weights": {TRUE_NDCG: 1.0, "benchmarks.quality.ground_truth:outliers": 1.0}}
"""Rare outliers of the reward's measurement, 20 times its range. Their size enters a raw reward's advantage; a rank
bounds it."""

TWO_LEVELS: Changes = {"reward.weights": {LIKELIEST: 1.0}}
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
MANY_USERS = WIDE | {
    "data.synthetic.users": 3000,
    "data.windows": 0,
    "sft.epochs": 8,
    "sft.dropout": 0.1,
    "sft.patience": 3,
    "sft.validations_per_epoch": 2,
    "train.prompts": 4000,
    "train.steps": 640,
    "train.checkpoint_every": 80,
    "learner.schedule": "linear",
}
SEARCHES: dict[str, Changes] = {
    "expected_ndcg": WIDE | {"reward.weights": {TRUE_NDCG: 1.0}},
    "ild@5": WIDE | {"reward.weights": {"ild@5": 1.0}},
    "mgu@5": MANY_USERS | {"reward.weights": {"mgu@5": -1.0}},
}
"""Metric to the regime in which both the alignment and the search (Best-of-16 of the reference) go by it: many prompts,
and held-out users. MGU's best list is another for every history; the policy needs more users and more steps to
learn how to count its groups."""
