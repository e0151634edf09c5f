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
from blade_dist.errors import UserError
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.given import GivenLists, newest_kept
from blade_dist.rewards.ranker import RankerTable
from blade_dist.rewards.scorer import Scorer
from blade_dist.settings import RewardSettings


class _StoredScorer(Scorer):
    """:class:`Scorer` over one split of prepared data."""

    def __init__(
        self, data: Path, split: str, settings: RewardSettings, k: int, incidents: Path, ranker: Path | None
    ) -> None:
        """``incidents``: a folder for the lists that a function of the user's fails at."""
        catalog = Catalog.load(data / "catalog")
        self._given = GivenLists(incidents, split)
        named = settings.distributions, settings.boosts
        composite = Composite(settings.scored, catalog, k, "reward.weights", *named, self._given)
        likely = None if ranker is None else RankerTable.load(ranker).of
        super().__init__(catalog, PromptTable.load(data / f"{split}.arrow").rows, composite, likely)
        self.busy_since: float | None = None
        """In seconds of this process's clock; read by who watches it."""

    @property
    def busy_with(self) -> str | None:
        """The function of the user's that is at work, and where its lists are; read by who watches it."""
        return self._given.function and f"{self._given.function} (called with the lists in {self._given.file})"

    def score(self, scales: Mapping[str, float], *parts: Rollouts) -> Rewards:
        self.busy_since = time.monotonic()
        try:
            return super().score(scales, *parts)
        finally:
            self.busy_since = None


RewardActor: Any = ray.remote(concurrency_groups={"life": 1})(_StoredScorer)


@dataclass(frozen=True)
class RewardHandle:
    """A reward actor, for who wants lists scored."""

    actor: Any
    split: str = "train"
    """Whose prompts' lists it scores."""
    incidents: Path | None = None
    """Where it keeps the lists that a function of the user's fails at."""
    since: float = 0.0
    """When it was first started, in seconds of Unix time."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Of metrics; they come with every question, so that an actor that was started again knows them."""

    def score(self, *parts: Any) -> Any:
        """Reference to the :class:`~blade_dist.batches.Rewards` of all parts: rollouts, or references to them."""
        return self.actor.score.remote(self.scales, *parts)

    def wait(self, scores: Any) -> Rewards:
        """What a reference of :meth:`score` refers to.

        Raises:
            UserError: a function of the user's fails, or the process died at every try; names what it was at.
        """
        try:
            rewards: Rewards = ray.get(scores)
        except ray.exceptions.RayActorError as error:
            if error.actor_id != self.actor._actor_id.hex():
                raise
            at = "" if self.incidents is None else newest_kept(self.incidents, self.split, self.since)
            raise UserError(
                "the process that scores lists died, or was killed as it hung, each time that it was given the same "
                f"ones: {at or 'no function of yours was at work'}; mend that, or give its node more memory"
            ) from error
        return rewards

    def rescaled(self, scales: Mapping[str, float]) -> RewardHandle:
        """The same actor, with these scales."""
        return replace(self, scales=scales)
