"""Best-of-N at serving time: what a search over a policy's sampled lists would show. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Prompts, Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.rewards.composite import Composite, Scores
from blade_dist.rewards.lists import Lists

Scored = tuple[Scores, dict[str, Scores]]
"""Total and parts of some lists."""


def best_of(items: NDArray[np.int32], scores: NDArray[np.float64]) -> NDArray[np.int32]:
    """``[B, K]``: of each prompt's ``[B, N, K]`` lists the one with the highest of its ``[B, N]`` scores.

    The first one among equals.
    """
    best: NDArray[np.int32] = items[np.arange(len(items)), scores.argmax(axis=1)]
    return best


def repeated(prompts: Prompts, items: NDArray[np.int32], catalog: Catalog, ranker: Ranked | None) -> Lists:
    """All ``[B, N, K]`` lists of the prompts, a prompt's N one after another; ``ranker``: of the ``B`` prompts."""
    owner = np.repeat(np.arange(len(prompts)), items.shape[1])
    targets, history = prompts.targets.take(owner), prompts.history.take(owner)
    likely = None if ranker is None else ranker.take(owner)
    return Lists(items.reshape(-1, items.shape[2]), targets, history, catalog, prompts.user[owner], likely)


def is_oracle(select: Composite, lists: Lists) -> bool:
    """Whether the choice looks at held-out items, which nobody has at serving time, see :func:`oracle_parts`."""
    (held_out, _), (seen, _) = _scored_twice(select, lists)
    return not np.array_equal(held_out, seen)


def oracle_parts(composite: Composite, lists: Lists) -> set[str]:
    """Names of the metrics that look at held-out items.

    This is tried out, as a user's function does not say what it reads: the lists are scored as if all of their items
    were held out, and as if the history's were.
    """
    (_, held_out), (_, seen) = _scored_twice(composite, lists)
    return {name for name, scores in held_out.items() if not np.array_equal(scores, seen[name])}


def _scored_twice(composite: Composite, lists: Lists) -> tuple[Scored, Scored]:
    """With the lists' items held out, and with the history's."""
    all_hits, no_hit = replace(lists, targets=Ragged.of(list(lists.items))), replace(lists, targets=lists.history)
    return composite.score(all_hits), composite.score(no_hit)
