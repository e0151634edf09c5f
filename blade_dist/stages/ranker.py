"""The ranker of ``reward.ranker``: which prompts need its distribution, whether it has one, what that depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Prompts, Ranked
from blade_dist.catalog.rules import make_rules
from blade_dist.data.bundle import DataBundle
from blade_dist.data.prompts import PromptTable
from blade_dist.errors import UserError
from blade_dist.rewards.named import reads_ranker
from blade_dist.rewards.ranker_file import RankerFile
from blade_dist.settings import Config
from blade_dist.stages.chosen import test_rows, training_rows, validation_rows
from blade_dist.store.fingerprint import fingerprint_file

Split = Literal["train", "validation", "test"]

TOP = 100
"""Items of a distribution that are kept where ``reward.ranker_top`` says nothing."""


def ranked_rows(config: Config, data: DataBundle) -> dict[Split, NDArray[np.int64]]:
    """The prompts of each split whose lists are scored by a metric that reads a ranker."""
    rows: dict[Split, NDArray[np.int64]] = {}
    if reads_ranker(config.reward.scored):
        rows["train"] = training_rows(config, len(data.train))
        rows["validation"] = validation_rows(config, len(data.validation))
    if reads_ranker(config.all_metrics):
        rows["test"] = test_rows(config, len(data.test))
    return rows


def check_ranker(config: Config, data: DataBundle) -> None:
    """Whether there is a distribution for every prompt that needs one.

    Raises:
        UserError: a file that can't be read or lacks a prompt; a policy that writes items of several tokens, where
            nothing says how many of them to search for.
    """
    needed, reward = ranked_rows(config, data), config.reward
    if isinstance(reward.ranker, Path):
        if needed:
            file = RankerFile(reward.ranker)
            for split, rows in needed.items():
                from_file(file, config, data, split, rows)
    elif needed and reward.ranker_top is None and data.codec.item_blocks.lengths.max() > 1:
        raise UserError(
            "reward.ranker: items have several tokens, so that the policy must search for its likeliest ones; set "
            "reward.ranker_top, a few times lists.k, or give reward.ranker the path of a file"
        )


def ranker_top(config: Config, items: int) -> int:
    """Items of a distribution that are kept, of a catalog of ``items``."""
    return min(config.reward.ranker_top or max(TOP, config.lists.k), items)


def ranker_stamp(config: Config, data: DataBundle, weights: str) -> dict[str, Any]:
    """What the distributions depend on beside legal lists, catalog and prompts; ``weights``: of the policy."""
    ranker = config.reward.ranker
    whose = {"the fine-tuned model": weights}
    if isinstance(ranker, Path):
        whose = {"the file of reward.ranker": fingerprint_file(ranker)}
    return {"reward.ranker": str(ranker), "reward.ranker_top": ranker_top(config, len(data.catalog)), **whose}


def from_file(file: RankerFile, config: Config, data: DataBundle, split: Split, rows: NDArray[np.int64]) -> Ranked:
    """What the file says of the given prompts.

    Raises:
        UserError: it lacks one.
    """
    prompts: Prompts = prompt_table(data, split).rows(rows)
    rules, catalog = make_rules(config.lists, data.catalog), data.catalog
    barred = np.zeros(len(catalog), dtype=bool) if rules is None else rules.excluded
    excluded = prompts.excluded(config.lists.exclude_history)
    return file.ranked(split, prompts, catalog, excluded, barred, ranker_top(config, len(catalog)))


def prompt_table(data: DataBundle, split: Split) -> PromptTable:
    """The split's prompts."""
    return {"train": data.train, "validation": data.validation, "test": data.test}[split]
