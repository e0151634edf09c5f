"""What is evaluated beside the policies themselves: the best of many lists of one, and re-rankers of its best items."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from blade_dist.batches import Prompts, Ranked, Rollouts
from blade_dist.catalog.rules import make_rules
from blade_dist.evaluation.decoding import RANK, SAMPLED, Cost
from blade_dist.evaluation.rerank import reranked_lists, usable
from blade_dist.evaluation.search import best_of, is_oracle, repeated
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.rollouts.pool import EnginePool
from blade_dist.settings import Way
from blade_dist.stages.opened import OpenedRun, search_choice
from blade_dist.tracking.bar import Bar
from blade_dist.tracking.say import say
from blade_dist.training.prompter import Prompter

POOL = 100
"""Items that re-rankers choose from where one forward pass finds them."""

CHUNK = 1024
"""Prompts of an engine between two movements of the bar."""


class ListWriter:
    """Has lists written for test prompts by the checkpoint that the engines serve."""

    def __init__(self, run: OpenedRun, pool: EnginePool, prompter: Prompter, bar: Bar) -> None:
        """``bar``: is moved by a list of each prompt, for every call."""
        self._config = run.config
        self._pool = pool
        self._prompter = prompter
        self._bar = bar
        self.finished = 0
        """Lists that are written."""

    def write(self, rows: NDArray[np.int64], way: Way) -> tuple[Rollouts, Cost]:
        """One list per prompt by one way of decoding, from prompts that no engine has in its cache."""
        self._pool.forget()
        before, began = self._pool.generated(), time.perf_counter()
        at_once, written = CHUNK * self._config.rollout.engines, []
        for start in range(0, len(rows), at_once):
            request = self._prompter.request(rows[start : start + at_once], 1, 1.0, "evaluate")
            written.append(self._pool.decode(request, way, self._config.evaluate.beams))
            self._bar.at(self.finished + start + len(request))
        seconds = time.perf_counter() - began
        self.finished += len(rows)
        return Rollouts.concat(written), Cost(len(rows), self._pool.generated() - before, seconds)

    def sample(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """As many lists per prompt as the largest search takes, ``[B, N, K]``."""
        size = max(self._config.evaluate.best_of)
        items = self._pool.generate(self._prompter.request(rows, size, 1.0, "evaluate")).items
        self._count(len(rows))
        return items

    def candidates(self, rows: NDArray[np.int64], size: int) -> Ranked:
        """The ``size`` best first items of each prompt."""
        found = self._pool.candidates(self._prompter.request(rows, 1, 1.0, "evaluate"), size)
        self._count(len(rows))
        return found

    def tell(self, doing: str) -> None:
        """What is being done with the lists, which may take longer than writing them."""
        self._bar.at(self.finished, doing)

    def _count(self, lists: int) -> None:
        self.finished += lists
        self._bar.at(self.finished)


def searched(
    run: OpenedRun, reward: Composite, prompts: Prompts, ranker: Ranked | None, writer: ListWriter, size: int
) -> dict[tuple[str, Way], NDArray[np.int32]]:
    """Lists of ``evaluate.best_of`` and of ``evaluate.rerank``, by name and the decode beside which they are shown.

    ``ranker``: of the prompts, for metrics that read it; ``size``: of the pool of candidates, see :func:`pool_size`.
    """
    lists: dict[tuple[str, Way], NDArray[np.int32]] = {}
    if run.config.evaluate.best_of:
        best = _best_lists(run, reward, repeated(prompts, writer.sample(prompts.index), run.data.catalog, ranker))
        lists |= {(name, SAMPLED): items for name, items in best.items()}
    if size:
        pool = writer.candidates(prompts.index, size)
        writer.tell("re-ranking the best items")
        lists |= {(name, RANK): items for name, items in reranked(run, prompts, pool).items()}
    return lists


def pool_size(run: OpenedRun, console: Console) -> int:
    """Candidates of a policy that re-rankers choose from; 0 where none is asked for or has anything to go by.

    Says where they are left out because items have several tokens.
    """
    config, data = run.config, run.data
    if config.lists.constrain == "none" or not any(usable(config.evaluate.rerank, data.catalog).values()):
        return 0
    size = config.evaluate.rerank_pool
    if size is None and data.codec.item_blocks.lengths.max() > 1:
        say(console, "evaluate: no re-rankers, as items have several tokens; evaluate.rerank_pool adds them")
        return 0
    return min(max(size or POOL, config.lists.k), len(data.catalog))


def reranked(run: OpenedRun, prompts: Prompts, pool: Ranked) -> dict[str, NDArray[np.int32]]:
    """Lists by each re-ranker and weight of the settings, ``mmr 0.3`` say, from each prompt's candidates."""
    lists, catalog = run.config.lists, run.data.catalog
    trade_offs, by_embedding = usable(run.config.evaluate.rerank, catalog), not catalog.n_groups
    rules = make_rules(lists, catalog)
    found = reranked_lists(catalog, pool, prompts.history, lists.k, trade_offs, rules, by_embedding)
    return {f"{name} {weight:g}": items for (name, weight), items in found.items()}


def _best_lists(run: OpenedRun, reward: Composite, everything: Lists) -> dict[str, NDArray[np.int32]]:
    """The best of the first N lists of each prompt, for every N and by every choice.

    ``everything``: as many lists for each prompt as the largest search takes, one after another.
    """
    sampled = everything.items.reshape(-1, max(run.config.evaluate.best_of), everything.items.shape[1])
    best: dict[str, NDArray[np.int32]] = {}
    for select in filter(None, (search_choice(run.config, run.data), reward)):
        oracle = " (oracle)" if is_oracle(select, everything) else ""
        scores = select.score(everything)[0].reshape(sampled.shape[:2])
        for n in run.config.evaluate.best_of:
            best.setdefault(f"best of {n}{oracle}", best_of(sampled[:, :n], scores[:, :n]))
    return best
