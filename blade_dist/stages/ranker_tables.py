"""Makes the tables of the ranker of ``reward.ranker``, and starts reward actors that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from blade_dist.batches import Ranked
from blade_dist.rewards.actor import RewardHandle
from blade_dist.rewards.named import reads_ranker
from blade_dist.rewards.ranker import RankerTable, mass, write_ranker
from blade_dist.rewards.ranker_file import RankerFile
from blade_dist.rollouts.pool import EnginePool
from blade_dist.stages.actors import scorer
from blade_dist.stages.opened import OpenedRun, legal_lists
from blade_dist.stages.ranker import Split, from_file, prompt_table, ranker_stamp, ranker_top
from blade_dist.store.changes import changes
from blade_dist.tracking.bar import Bar
from blade_dist.tracking.say import say
from blade_dist.training.prompter import Prompter

CHUNK = 1024
"""Prompts of an engine between two movements of the bar."""

Candidates = Callable[[NDArray[np.int64], int], Ranked]
"""The policy's best items of the given prompts, and so many."""


@contextmanager
def scorer_of(
    run: OpenedRun, pool: EnginePool, split: Split, rows: NDArray[np.int64], console: Console
) -> Iterator[RewardHandle]:
    """A running reward actor for prompts of a split, and before it the ranker's table where the reward reads one.

    ``pool``: engines that serve the reference.
    """
    config, table = run.config.in_training, None
    if reads_ranker(config.reward.scored):
        table = ranked_by(
            run, split, rows, console, lambda rows, size: _candidates(run, pool, split, rows, size, console)
        )
    with scorer(config, run.paths.data, split, table) as reward:
        yield reward


def ranked_by(run: OpenedRun, split: Split, rows: NDArray[np.int64], console: Console, candidates: Candidates) -> Path:
    """Where the ranker's table of the given prompts (ascending) is; it is made where there is none that fits.

    One line says what was made, and what has changed since an earlier one.
    """
    path, config = run.paths.ranker(split), run.config
    # rules let in other items beside longer lists, which are those of the split
    k = (config if split == "test" else config.in_training).lists.k
    stamp = ranker_stamp(config, run.data, run.reference.weights) | {
        "lists.k (or rollout.k)": k,
        "legal lists (see lists)": legal_lists(config.lists),
        "the catalog": run.data.catalog.fingerprint(),
        f"the {split} prompts": prompt_table(run.data, split).fingerprint(),
    }
    there = RankerTable.load(path) if path.is_file() else None
    changed = {} if there is None else changes(there.stamp, stamp)
    if there is not None and not changed and not there.lacks(rows):
        return path
    ranker = config.reward.ranker
    if isinstance(ranker, Path):
        ranked = from_file(RankerFile(ranker), config, run.data, split, rows)
    else:
        ranked = candidates(rows, ranker_top(config, len(run.data.catalog)))
    write_ranker(path, rows, ranked, stamp)
    anew = f", made anew ({'; '.join(changed.values())})" if changed else ""
    say(
        console,
        f"ranker: {path} has the {ranked.items.shape[1]} likeliest items of {len(rows)} {split} prompts, "
        f"{mass(ranked).mean():.0%} of the probability on average{anew}",
    )
    return path


def _candidates(
    run: OpenedRun, pool: EnginePool, split: Split, rows: NDArray[np.int64], size: int, console: Console
) -> Ranked:
    config = run.config
    prompter = Prompter(prompt_table(run.data, split), run.data.codec, config.run.seed, config.lists.exclude_history)
    at_once, found = CHUNK * config.rollout.engines, []
    with Bar("ranker", len(rows), "prompts", console) as bar:
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            found.append(pool.candidates(prompter.request(part, 1, 1.0, "ranker"), size))
            bar.more(len(part))
    return Ranked.concat(found)
