"""A catalog of a few items, prompts and lists of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from blade_dist.batches import MISS, Prompts, Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.rewards.lists import Lists

ITEMS = 12
PRIOR_STAMP = {"reference": "r1", "catalog": "c1", "k": 5}


def make_catalog() -> Catalog:
    groups = Ragged.of([[] if i == 10 else [i % 3] if i % 4 else [0, 2] for i in range(ITEMS)])
    rng = np.random.default_rng(0)
    return Catalog(
        item_ids=np.array([f"i{i}" for i in range(ITEMS)], dtype=object),
        titles=np.array([f"t{i}" for i in range(ITEMS)], dtype=object),
        groups=groups,
        group_names=["a", "b", "c"],
        popularity=np.arange(ITEMS, 0, -1) ** 2,
        embeddings=rng.normal(size=(ITEMS, 4)).astype(np.float32),
    )


def made_codec(items: list[tuple[int, ...]], separator: int | None, end: int) -> Codec:
    """A codec without a tokenizer, of what :func:`coded` gave."""
    nothing = np.zeros(0, np.int32)
    rows = Ragged.of([list(item if separator is None else item[:-1]) for item in items])
    return Codec("semantic_id", Path(), rows, separator, end, end, nothing, nothing)


def coded(sequences: list[tuple[int, ...]], separator: int | None) -> list[tuple[int, ...]]:
    """The sequences as a codec writes items: with the separator, or those that begin no other one."""
    if separator is not None:
        return [(*row, separator) for row in sequences]
    return [row for row in sequences if not any(row == other[: len(row)] != other for other in sequences)]


@st.composite
def batches(draw: st.DrawFn, misses: bool = True) -> Lists:
    n, k = draw(st.integers(1, 4)), 5
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    items = np.stack([rng.permutation(ITEMS)[:k] for _ in range(n)]).astype(np.int32)
    if misses:
        items[rng.random(items.shape) < 0.3] = MISS
    targets = Ragged.of([rng.permutation(ITEMS)[: rng.integers(1, ITEMS + 1)] for _ in range(n)])
    history = Ragged.of([rng.permutation(ITEMS)[: rng.integers(1, 7)] for _ in range(n)])
    return Lists(items, targets, history, make_catalog(), ranker=made_ranker(rng, n))


def made_ranker(rng: np.random.Generator, prompts: int) -> Ranked:
    """The seven likeliest of the items, some as likely as others; of the last prompt fewer."""
    items = np.stack([rng.permutation(ITEMS)[:7] for _ in range(prompts)]).astype(np.int32)
    scores = -np.sort(rng.integers(1, 5, items.shape), axis=1) * 0.7
    items[-1, 7 - rng.integers(0, 6) :] = MISS
    return Ranked(items, scores)


def made_prompts(
    histories: list, targets: list, users: list[str] | None = None, seen: list[list[int]] | None = None
) -> Prompts:
    """Prompts ``u0``, ``u1``, ..., who have seen what is shown or, where it is given, more."""
    names = np.array(users or [f"u{number}" for number in range(len(histories))], dtype=object)
    rows = (Ragged.of(part) for part in (histories, targets, seen or histories))
    return Prompts(np.arange(len(histories)), names, *rows)
