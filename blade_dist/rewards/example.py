"""One list by hand: for the examples of the metrics, and to try a reward of your own on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from blade_dist.batches import Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.rewards.lists import Lists


def example(
    items: Sequence[int],
    targets: Sequence[int] = (),
    history: Sequence[int] = (),
    groups: Sequence[str] = (),
    popularity: Sequence[int] = (),
    embeddings: Sequence[Sequence[float]] | None = None,
    ranker: Mapping[int, float] | None = None,
) -> Lists:
    """A single list over a catalog of items 0, 1, 2, ...

    >>> example([0, 2], targets=[2], groups=["a", "a", "ab"]).hits
    array([[False,  True]])

    Args:
        items: of the list, in order; -1 is a miss.
        targets: the user's held-out items.
        history: the user's items.
        groups: one-letter names of the groups of item 0, of item 1, ...
        popularity: training interactions of item 0, of item 1, ...; 1 each by default.
        embeddings: vectors of item 0, of item 1, ...
        ranker: a ranker's best items, the likeliest first, with their probabilities.
    """
    size = max(len(groups), len(popularity), 1 + max((*items, *targets, *history, *(ranker or ()))))
    names = sorted(set("".join(groups)))
    of_item = [[names.index(name) for name in groups[item]] if item < len(groups) else [] for item in range(size)]
    catalog = Catalog(
        item_ids=np.array([str(item) for item in range(size)], dtype=object),
        titles=np.array([f"item {item}" for item in range(size)], dtype=object),
        groups=Ragged.of(of_item),
        group_names=names,
        popularity=np.array([*popularity, *[1] * (size - len(popularity))], dtype=np.int64),
        embeddings=None if embeddings is None else np.array(embeddings, dtype=np.float32),
    )
    likely = None
    if ranker is not None:
        likely = Ranked(np.array([list(ranker)], dtype=np.int32), np.log([list(ranker.values())]))
    rows = np.array([items], dtype=np.int32)
    return Lists(rows, Ragged.of([targets]), Ragged.of([history]), catalog, ranker=likely)
