"""The trie of the catalog's token sequences, as flat arrays: 1,000,000 items cost no Python loop per token.

The sequences are prefix-free: none begins another, so that an item ends with its last token. (Titles begin each other;
there the separator is each one's last token.) Items are ranked by their sequences, so that what follows a common
beginning is a range of ranks. Only beginnings that two items or more share are *nodes* (the root always is); after them
an item's remaining tokens are forced. Pure.

The items 5 8 9, 5 6, 6 and 5 7 have the ranks 2, 0, 3 and 1, and there are two nodes::

    node         ranks below    edges: token, ranks below, leads to
    0 (root)     0 to 3         5, 0 to 2, node 1;  6, 3, one item
    1 (after 5)  0 to 2         6, 0, one item;     7, 1, one item;  8, 2, one item
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.errors import UserError
from blade_dist.store.files import readable

ROOT = 0
"""The node that every item starts from."""
ONE_ITEM = -1
"""Instead of a node: only one item follows."""
_TOKEN_BITS = 32


@dataclass(frozen=True, eq=False)
class Trie:
    """``I`` items, ``N`` nodes, ``E`` edges; nodes and edges in order of depth, an edge's node's edges side by side."""

    item: NDArray[np.int32]
    """``[I]`` catalog index of each rank."""
    rank: NDArray[np.int32]
    """``[I]`` rank of each catalog index."""
    token: NDArray[np.int32]
    """Tokens of all items, by rank."""
    offset: NDArray[np.int64]
    """``[I + 1]`` where each rank's tokens start."""
    node_low: NDArray[np.int32]
    """``[N]`` first rank below the node."""
    node_high: NDArray[np.int32]
    """``[N]`` one after the last rank below the node."""
    node_edge: NDArray[np.int32]
    """``[N + 1]`` where each node's edges start."""
    edge_key: NDArray[np.int64]
    """``[E]`` ascending: the node, shifted by 32 bits, and the token of the edge."""
    edge_low: NDArray[np.int32]
    """``[E]`` first rank below the edge."""
    edge_high: NDArray[np.int32]
    """``[E]`` one after the last rank below the edge."""
    edge_node: NDArray[np.int32]
    """``[E]`` the node it leads to, or :data:`ONE_ITEM`."""

    def __len__(self) -> int:
        return len(self.item)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def lengths(self, rank: NDArray[np.int32]) -> NDArray[np.int64]:
        """Tokens of each of the given ranks."""
        return self.offset[rank + 1] - self.offset[rank]

    def edge_token(self, edge: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token of each of the given edges."""
        return self.edge_key[edge] & ((1 << _TOKEN_BITS) - 1)

    def find_edge(self, node: NDArray[np.int32], token: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray]:
        """Number of the edge from each node with each token, and whether there is one (if not, the number is of another
        edge)."""
        key = _key(node, token)
        edge = np.minimum(np.searchsorted(self.edge_key, key), len(self.edge_key) - 1)
        return edge, self.edge_key[edge] == key

    def edges_of(self, node: NDArray[np.int32]) -> Ragged:
        """All edges of each of the given nodes: int64 edge numbers, a row per node."""
        first = self.node_edge[node]
        count = self.node_edge[node + 1] - first
        return Ragged(ranges(first, count), offsets_of(count))

    def save(self, folder: Path) -> None:
        """One ``.npy`` file per array, into a folder that is there."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Trie:
        """Memory-mapped.

        Raises:
            UserError: it is damaged, as far as it can be seen without building it.
        """
        with readable(folder, f"delete {folder.parent}, and make it again"):
            files = {field.name: folder / f"{field.name}.npy" for field in fields(cls)}
            trie = cls(**{name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in files.items()})
            trie._check()
            return trie

    def _check(self) -> None:
        """Raises ValueError where arrays do not fit each other, so that a walk would leave them."""
        arrays = [getattr(self, field.name) for field in fields(self)]
        items, nodes, edges = len(self.item), len(self.node_low), len(self.edge_key)
        whole = (
            all(array.ndim == 1 and array.dtype.kind == "i" for array in arrays)
            and len(self.rank) == items == len(self.offset) - 1
            and len(self.node_high) == nodes == len(self.node_edge) - 1
            and len(self.edge_low) == len(self.edge_high) == len(self.edge_node) == edges
            and _within(self.item, 0, items)
            and _within(self.rank, 0, items)
            and bool((self.rank[self.item] == np.arange(items)).all())
            and _steps(self.offset, len(self.token))
            and _steps(self.node_edge, edges)
            and bool((np.diff(self.edge_key) > 0).all())
            and _within(self.edge_key >> _TOKEN_BITS, 0, nodes)
            and _within(self.edge_node, ONE_ITEM, nodes)
            and all(
                _within(low, 0, items) and bool((low < high).all()) and _within(high, 1, items + 1)
                for low, high in ((self.node_low, self.node_high), (self.edge_low, self.edge_high))
            )
        )
        if not whole:
            raise ValueError("its arrays do not fit each other")


def _within(values: NDArray, low: int, high: int) -> bool:
    return bool(len(values) and low <= values.min() and values.max() < high)


def _steps(offsets: NDArray, end: int) -> bool:
    """Whether offsets go from 0 to ``end`` and every row has something."""
    return bool(offsets[0] == 0 and offsets[-1] == end and (np.diff(offsets) > 0).all())


def build_trie(sequences: Ragged) -> Trie:
    """The trie of ``I`` token sequences (int32 rows, none empty); level by level, each one vectorised.

    Items are sorted within the nodes of a level by their next token: equal tokens are an edge, and an edge with two
    items or more is a node of the next level. That costs a sort per level, of the items that still share a beginning:
    soon few.

    Raises:
        UserError: an empty sequence, or one that is another's beginning (or the same); names their rows.
    """
    count = len(sequences)
    if not count or not sequences.lengths.all():
        raise UserError(f"item {int(np.argmin(sequences.lengths)) if count else 0}: no tokens; every item needs some")
    order = np.arange(count, dtype=np.int32)
    levels = [_Level.root(count)]
    while len(levels[-1].low):
        levels.append(levels[-1].grow(order, sequences, depth=len(levels) - 1))
    nodes = levels[:-1]
    sorted_rows = sequences.take(order.astype(np.int64))
    rank = np.empty(count, dtype=np.int32)
    rank[order] = np.arange(count, dtype=np.int32)
    edges = np.concatenate([level.edge_count for level in nodes])
    return Trie(
        item=order,
        rank=rank,
        token=sorted_rows.flat.astype(np.int32, copy=False),
        offset=sorted_rows.offsets,
        node_low=np.concatenate([level.low for level in nodes]),
        node_high=np.concatenate([level.high for level in nodes]),
        node_edge=offsets_of(edges).astype(np.int32),
        edge_key=np.concatenate([level.edge_key for level in nodes]),
        edge_low=np.concatenate([level.edge_low for level in nodes]),
        edge_high=np.concatenate([level.edge_high for level in nodes]),
        edge_node=np.concatenate([level.edge_node for level in nodes]),
    )


@dataclass
class _Level:
    """Nodes of one depth; the arrays of edges are there once it has grown."""

    first: int
    """Number of its first node."""
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    edge_count: NDArray[np.int64]
    edge_key: NDArray[np.int64]
    edge_low: NDArray[np.int32]
    edge_high: NDArray[np.int32]
    edge_node: NDArray[np.int32]

    @classmethod
    def of(cls, first: int, low: NDArray[np.int32], high: NDArray[np.int32]) -> _Level:
        none32, none64 = np.zeros(0, np.int32), np.zeros(0, np.int64)
        return cls(first, low, high, none64, none64, none32, none32, none32)

    @classmethod
    def root(cls, count: int) -> _Level:
        return cls.of(ROOT, np.zeros(1, np.int32), np.full(1, count, np.int32))

    def grow(self, order: NDArray[np.int32], sequences: Ragged, depth: int) -> _Level:
        """Sorts ``order`` within this level's nodes by the token at ``depth``, makes its edges, returns the next."""
        sizes = self.high - self.low
        node = np.repeat(np.arange(len(self.low)), sizes)
        place = ranges(self.low, sizes)
        rows = order[place]
        if (over := sequences.lengths[rows] == depth).any():
            short = rows[over][0]
            other = rows[(node == node[over][0]) & (rows != short)][0]
            raise UserError(f"items {short} and {other}: the tokens of the one are, or begin, the other's")
        key = _key(node, sequences.flat[sequences.offsets[rows] + depth])
        sort = np.argsort(key, kind="stable")
        order[place] = rows[sort]
        key = key[sort]
        # runs of equal keys, from start to stop: the items below one edge
        start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        stop = np.append(start[1:], len(key))
        self.edge_count = np.bincount(key[start] >> _TOKEN_BITS, minlength=len(self.low))
        self.edge_key = key[start] + (self.first << _TOKEN_BITS)  # the trie's numbers of nodes, not the level's
        self.edge_low = place[start].astype(np.int32)
        self.edge_high = (place[stop - 1] + 1).astype(np.int32)
        shared = stop - start > 1
        following = self.first + len(self.low)
        self.edge_node = np.where(shared, following + np.cumsum(shared) - 1, ONE_ITEM).astype(np.int32)
        return _Level.of(following, self.edge_low[shared], self.edge_high[shared])


def _key(node: NDArray, token: NDArray) -> NDArray[np.int64]:
    return (np.asarray(node, dtype=np.int64) << _TOKEN_BITS) | np.asarray(token, dtype=np.int64)
