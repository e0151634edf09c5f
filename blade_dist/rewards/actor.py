"""The scorer in an actor. There may be several: they share nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from blade_dist.catalog.catalog import Catalog
from blade_dist.data.prompts import PromptTable
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.scorer import Scorer
from blade_dist.settings import RewardSettings


class _StoredScorer(Scorer):
    """:class:`Scorer` over one split of prepared data."""

    def __init__(self, data: Path, split: str, settings: RewardSettings, k: int) -> None:
        catalog = Catalog.load(data / "catalog")
        composite = Composite(settings.scored, catalog, k, distributions=settings.distributions, boosts=settings.boosts)
        super().__init__(catalog, PromptTable.load(data / f"{split}.arrow").rows, composite)


RewardActor: Any = ray.remote(_StoredScorer)
