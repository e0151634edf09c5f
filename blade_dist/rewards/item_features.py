"""What metrics need to know of the items, made once per catalog. Row ``MISS`` (the last) of each array is a miss."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from blade_dist.batches import MISS
from blade_dist.catalog.catalog import Catalog

T = TypeVar("T")

HEAD_SHARE = 0.8
"""The head is the most popular items that make up this share of the training interactions."""

WORD = 64
"""Groups per word of :func:`group_bits`."""


def once_per_catalog(function: Callable[[Catalog], T]) -> Callable[[Catalog], T]:
    """Keeps the answer as long as the catalog itself, which is immutable, lives."""
    answers: WeakKeyDictionary[Catalog, T] = WeakKeyDictionary()

    @wraps(function)
    def remembered(catalog: Catalog) -> T:
        if catalog not in answers:
            answers[catalog] = function(catalog)
        return answers[catalog]

    return remembered


def group_sums(catalog: Catalog, flat: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 ``[rows, groups]``: mass of each group in ragged rows of items; an item's mass of 1 is split evenly."""
    items = np.where(flat == MISS, len(catalog), flat)
    rows = csr_matrix((np.ones(len(items)), items, offsets), shape=(len(offsets) - 1, len(catalog) + 1))
    return (rows @ _group_mass(catalog)).toarray()


@once_per_catalog
def group_bits(catalog: Catalog) -> NDArray[np.uint64]:
    """uint64 ``[I + 1, words]``: bit g of an item is set where it is in group g."""
    words = -(-max(1, catalog.n_groups) // WORD)  # rounded up
    bits = np.zeros((len(catalog) + 1, words), dtype=np.uint64)
    owners = np.repeat(np.arange(len(catalog)), catalog.groups.lengths)
    flag = np.uint64(1) << (catalog.groups.flat % WORD).astype(np.uint64)
    # .at, as an item with several groups has the same row several times: plain indexing would keep the last bit only
    np.bitwise_or.at(bits, (owners, catalog.groups.flat // WORD), flag)
    return bits


@once_per_catalog
def information(catalog: Catalog) -> NDArray[np.float64]:
    """float64 ``[I + 1]``: ``-log2`` of an item's share of the training interactions, over ``log2`` of their number.

    0 (everything is about this item) to 1 (one interaction; an item without any counts as that); a miss is 0.
    """
    counts = np.maximum(catalog.popularity, 1)
    total = max(2, int(counts.sum()))
    return np.append(-np.log2(counts / total) / np.log2(total), 0.0)


@once_per_catalog
def tail_items(catalog: Catalog) -> NDArray[np.bool_]:
    """bool ``[I + 1]``: whether an item is outside the head; a miss is not."""
    # an item is in the head if those before it do not reach the share yet: the one that crosses it is in the head too
    order = np.argsort(-catalog.popularity, kind="stable")
    before = np.cumsum(catalog.popularity[order]) - catalog.popularity[order]
    tail = np.ones(len(catalog) + 1, dtype=bool)
    tail[order[before < HEAD_SHARE * catalog.popularity.sum()]] = False
    tail[MISS] = False
    return tail


@once_per_catalog
def _group_mass(catalog: Catalog) -> csr_matrix:
    """``[I + 1, groups]``: 1 over the number of an item's groups, in each of them."""
    lengths = catalog.groups.lengths
    mass = 1.0 / np.repeat(lengths, lengths)
    offsets = np.append(catalog.groups.offsets, catalog.groups.offsets[-1])
    return csr_matrix((mass, catalog.groups.flat, offsets), shape=(len(catalog) + 1, catalog.n_groups))
