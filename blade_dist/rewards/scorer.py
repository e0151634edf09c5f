"""From rollouts to rewards: their prompts are looked up, and the composite scores all lists at once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Prompts, Ranked, Rewards, Rollouts
from blade_dist.catalog.catalog import Catalog
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists


class Scorer:
    """Without a state: one that starts in another's place answers the same."""

    def __init__(
        self,
        catalog: Catalog,
        prompts: Callable[[NDArray[np.int64]], Prompts],
        composite: Composite,
        ranker: Callable[[NDArray[np.int64]], Ranked] | None = None,
    ) -> None:
        """``prompts`` gives those with the indices ``[B]`` by which rollouts name them, ``ranker`` their best items
        where a metric reads them."""
        self._catalog = catalog
        self._prompts = prompts
        self._composite = composite
        self._ranker = ranker

    def score(self, scales: Mapping[str, float], *parts: Rollouts) -> Rewards:
        """Rewards of all lists of all parts, in order, ``[B, G]``.

        ``scales``: of metrics, see :meth:`~blade_dist.rewards.composite.Composite.rescaled`.

        Raises:
            UserError: a user's function fails, see :meth:`~blade_dist.rewards.composite.Composite.score`.
        """
        rollouts = Rollouts.concat(parts)
        prompts = self._prompts(rollouts.prompt)
        shape = rollouts.items.shape
        per_list = np.repeat(np.arange(shape[0]), shape[1])  # metrics know lists, not groups: a prompt stands G times
        lists = Lists(
            items=rollouts.items.reshape(-1, shape[2]),
            targets=prompts.targets.take(per_list),
            history=prompts.history.take(per_list),
            catalog=self._catalog,
            users=prompts.user[per_list],
            ranker=None if self._ranker is None else self._ranker(rollouts.prompt).take(per_list),
        )
        total, by_name = self._composite.rescaled(scales).score(lists)
        by_group = {name: values.reshape(shape[:2]) for name, values in by_name.items()}
        return Rewards(rollouts.prompt, total.reshape(shape[:2]), by_group, rollouts.digests())
