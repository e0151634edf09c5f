"""What ``blade-dist evaluate`` would write of lists that something else made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blade_dist.batches import Prompts
from blade_dist.evaluation.per_user import per_user_rows
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.stages.evaluate import scaled_reward
from blade_dist.stages.opened import OpenedRun
from blade_dist.store.files import whole_file


def rows_of(run: OpenedRun, prompts: Prompts, lists: Mapping[tuple[str, str], NDArray[np.int32]]) -> pa.Table:
    """A row per prompt, name and decode, with the metrics of the run's settings.

    Args:
        run: with its reference, and its prior where the reward is normalised.
        prompts: ``n`` test prompts.
        lists: ``[n, K]`` catalog indices by name and decode.
    """
    config, catalog, reward = run.config, run.data.catalog, scaled_reward(run)
    names = dict.fromkeys([*config.evaluate.metrics, *config.reward.scored], 1.0)
    metrics = Composite(names, catalog, config.lists.k, distributions=config.reward.distributions)
    return pa.concat_tables(
        per_user_rows(
            name,
            decode,
            prompts,
            Lists(items, prompts.targets, prompts.history, catalog, prompts.user),
            metrics,
            reward,
        )
        for (name, decode), items in lists.items()
    )


def write_table(table: pa.Table, path: Path) -> None:
    """As Parquet; the file appears when it is whole."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
