"""The scorer in an actor. There may be several: they share nothing. One that dies is started again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from blade_dist.batches import Rewards, Rollouts
from blade_dist.catalog.catalog import Catalog
from blade_dist.data.prompts import PromptTable
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.ranker import RankerTable
from blade_dist.rewards.scorer import Scorer
from blade_dist.settings import RewardSettings


class _StoredScorer(Scorer):
    """:class:`Scorer` over one split of prepared data."""

    def __init__(self, data: Path, split: str, settings: RewardSettings, k: int, ranker: Path | None) -> None:
        catalog = Catalog.load(data / "catalog")
        composite = Composite(settings.scored, catalog, k, distributions=settings.distributions, boosts=settings.boosts)
        likely = None if ranker is None else RankerTable.load(ranker).of
        super().__init__(catalog, PromptTable.load(data / f"{split}.arrow").rows, composite, likely)
        self.busy_since: float | None = None
        """In seconds of this process's clock; read by who watches it."""

    def score(self, scales: Mapping[str, float], *parts: Rollouts) -> Rewards:
        self.busy_since = time.monotonic()
        try:
            return super().score(scales, *parts)
        finally:
            self.busy_since = None


READY_S = 5.0
"""How long an actor may take to say that it lives."""

RewardActor: Any = ray.remote(concurrency_groups={"life": 1})(_StoredScorer)


@dataclass(frozen=True)
class RewardHandle:
    """A reward actor, for who wants lists scored."""

    actor: Any
    scales: Mapping[str, float] = field(default_factory=dict)
    """Of metrics; they come with every question, so that an actor that was started again knows them."""

    def score(self, *parts: Any) -> Any:
        """Reference to the :class:`~blade_dist.batches.Rewards` of all parts: rollouts, or references to them."""
        return self.actor.score.remote(self.scales, *parts)

    def died(self) -> str | None:
        """That its process died too often to be started again; None where it answers, or is just being started."""
        try:
            ray.get(self.actor.__ray_ready__.remote(), timeout=READY_S)
        except ray.exceptions.RayActorError:
            return (
                "the process that scores lists died again and again; a function that reward.weights names may end it, "
                "or the node has no memory left"
            )
        except ray.exceptions.GetTimeoutError:
            pass
        return None

    def rescaled(self, scales: Mapping[str, float]) -> RewardHandle:
        """The same actor, with these scales."""
        return replace(self, scales=scales)
