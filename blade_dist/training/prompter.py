"""Rollout requests for rows of a prompt table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Prompts
from blade_dist.catalog.codec import Codec
from blade_dist.data.prompts import PromptTable
from blade_dist.data.seeds import stable_seed
from blade_dist.rollouts.request import RolloutRequest


class Prompter:
    """Makes rollout requests for rows of a prompt table."""

    def __init__(self, table: PromptTable, codec: Codec, seed: int, exclude_history: ExcludeHistory) -> None:
        self._table = table
        self._codec = codec
        self._seed = seed
        self._exclude_history = exclude_history

    def request(self, rows: NDArray[np.int64], group_size: int, temperature: float, purpose: object) -> RolloutRequest:
        """``group_size`` lists for each row; the seeds depend on the run, the purpose (a step, say) and the prompt."""
        prompts: Prompts = self._table.rows(rows)
        return RolloutRequest(
            prompt=prompts.index,
            tokens=self._codec.encode_prompts(prompts.history),
            excluded=prompts.excluded(self._exclude_history),
            seed=np.array([stable_seed(self._seed, purpose, row) for row in prompts.index], dtype=np.int64),
            group_size=group_size,
            temperature=temperature,
        )
