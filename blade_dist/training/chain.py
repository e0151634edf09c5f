"""A step's chain generate -> score -> estimate, as references, and what comes of it: a batch and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Estimates, LearnBatch, Rewards, Rollouts
from blade_dist.posterior.belief import miscalibration
from blade_dist.rollouts.asked import Asked
from blade_dist.rollouts.request import RolloutRequest

PIT = "posterior/pit"
"""The one number of a belief that is a histogram."""


@dataclass(frozen=True)
class AnchorLists:
    """Lists of a step's prompts by the anchor."""

    rollouts: Rollouts
    rewards: Any
    """Reference to their :class:`Rewards`."""


@dataclass
class Chain:
    """A step that is under way: whoever waits for one of the references waits for all that comes before it."""

    request: RolloutRequest
    rollouts: Asked
    """References to :class:`Rollouts`, an engine's share each, in the request's order."""
    rewards: Any
    """Reference to :class:`Rewards`."""
    anchor: AnchorLists | None
    """None without an anchor."""
    estimates: Any = None
    """Reference to :class:`Estimates`; None until all lists are there: until then an engine may be lost."""


def learn_batch(
    request: RolloutRequest, rollouts: Rollouts, estimates: Estimates, anchor: AnchorLists | None
) -> LearnBatch:
    """The whole step's batch."""
    imitated = None
    if anchor is not None and estimates.imitated is not None:
        imitated = anchor.rollouts.pick(estimates.imitated)
    return LearnBatch(
        prompt_tokens=request.tokens,
        excluded=request.excluded,
        rollouts=rollouts,
        estimates=estimates,
        decision_tokens=int(rollouts.decision.sum()),
        imitated=imitated,
    )


def shards(batch: LearnBatch, ranks: int) -> list[LearnBatch]:
    """A contiguous share of the prompts for each rank; the batch itself, not a copy, for one rank."""
    if ranks == 1:
        return [batch]
    return [batch.take(rows) for rows in np.array_split(np.arange(len(batch.prompt_tokens)), ranks)]


def step_numbers(
    rollouts: Rollouts, rewards: Rewards, estimates: Estimates, seconds: dict[str, float]
) -> dict[str, float]:
    """The step's means, by the name of their column; ``seconds`` by phase."""
    positions = rollouts.items.size
    return {
        "reward": float(rewards.total.mean()),
        **{f"reward/{name}": float(values.mean()) for name, values in rewards.parts.items()},
        "informative_groups": float(estimates.informative.mean()),
        **_reported(estimates.report),
        "invalid": float(rollouts.invalid.sum() / positions),
        "duplicate": float(rollouts.duplicate.sum() / positions),
        "list_tokens": float(rollouts.tokens.lengths.mean()),
        "decisions": float(rollouts.decision.mean()),
        "lists": float(rewards.total.size),
        **{f"seconds/{name}": float(value) for name, value in seconds.items()},
    }


def _reported(report: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means over the prompts that were looked at; the histogram of the PIT with its distance from the uniform one."""
    means = {name: float(np.nanmean(values)) for name, values in report.items() if name != PIT}
    if PIT not in report:
        return means
    histogram = np.nanmean(report[PIT], axis=0)
    shares = {f"{PIT}_{number}": float(share) for number, share in enumerate(histogram)}
    return {**means, "posterior/miscalibration": miscalibration(histogram), **shares}
