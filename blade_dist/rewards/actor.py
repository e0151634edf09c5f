"""The reward actor: stateless; scores whole batches of rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray

from blade_dist.batches import Rewards, Rollouts
from blade_dist.catalog.catalog import Catalog
from blade_dist.data.prompts import PromptTable
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.settings import RewardSettings


class Scorer:
    """Looks the prompts of rollouts up and scores their lists."""

    def __init__(self, catalog: Catalog, table: PromptTable, composite: Composite) -> None:
        self._catalog = catalog
        self._table = table
        self._composite = composite

    def rescale(self, scales: Mapping[str, float]) -> None:
        """See :meth:`~blade_dist.rewards.composite.Composite.rescale`."""
        self._composite.rescale(scales)

    def score(self, *parts: Rollouts) -> Rewards:
        """Rewards of all lists of all parts, in order, ``[B, G]``."""
        rollouts = Rollouts.concat(parts)
        prompts = self._table.rows(rollouts.prompt)
        shape = rollouts.items.shape
        per_list = np.repeat(np.arange(shape[0]), shape[1])
        lists = Lists(
            items=rollouts.items.reshape(-1, shape[2]),
            targets=prompts.targets.take(per_list),
            history=prompts.history.take(per_list),
            catalog=self._catalog,
            users=prompts.user[per_list],
        )
        total, by_name = self._composite.score(lists)
        by_group = {name: values.reshape(shape[:2]) for name, values in by_name.items()}
        return Rewards(rollouts.prompt, total.reshape(shape[:2]), by_group, rollouts.digests())


class _StoredScorer(Scorer):
    """:class:`Scorer` over one split of prepared data."""

    def __init__(self, data: Path, split: str, settings: RewardSettings, k: int) -> None:
        catalog = Catalog.load(data / "catalog")
        composite = Composite(settings.scored, catalog, k, distributions=settings.distributions, boosts=settings.boosts)
        super().__init__(catalog, PromptTable.load(data / f"{split}.arrow"), composite)


RewardActor: Any = ray.remote(_StoredScorer)
