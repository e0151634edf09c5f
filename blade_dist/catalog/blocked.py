"""What rules block in lists that are being written: counted by rank, for many lists at once. Pure numpy.

Lists whose groups are full alike share a *set* of blocked ranks. A set is a row of bits with the number of ranks in it
before each word, so that how many of a range of ranks are blocked takes two look-ups, whatever the catalog's size.
With words of 4 bits and the ranks 1, 3 and 6 blocked, the words are 0b1010 and 0b0100, and 0 and 2 ranks stand before
them. Below rank 7 are 2 + (the bits of 0b0100 & 0b0111) = 3, below rank 3 are 0 + (0b1010 & 0b0111) = 1: 2 in between.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.rules import Rules
from blade_dist.catalog.trie import Trie

WORD = 64
SETS = 256
"""Sets that there is room for at least; those that no list needs are dropped when it is used up."""
EDGES = 2**20
"""Edges that are looked at together, which bounds the memory that it takes."""
_NODE_BITS = 32
_NOTHING_FULL = 0


class BlockedRanks:
    """The set of each of ``slots`` lists."""

    def __init__(self, rules: Rules, trie: Trie, slots: int) -> None:
        """Empty lists; ``rules``: over the trie's ranks."""
        self._rules = rules
        self._trie = trie
        self._set = np.full(slots, _NOTHING_FULL, dtype=np.int64)
        words = len(trie) // WORD + 1
        self._bits = np.zeros((SETS, words), dtype=np.uint64)
        self._before = np.zeros((SETS, words), dtype=np.int32)
        self._excluded = _packed(rules.excluded, words)
        self._large: dict[int, NDArray[np.uint64]] = {}
        self._number: dict[bytes, int] = {}
        """Full groups to their set, in the order of the sets."""
        self._set_of(np.zeros(0, np.int64))

    def start(self, slots: NDArray[np.int64]) -> None:
        """Empty lists in the slots."""
        self._set[slots] = _NOTHING_FULL

    def copy(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Each target slot gets the list of its source slot, all at the same time."""
        self._set[target] = self._set[source]

    def hold(self, slots: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        """The lists in the slots hold these items now: ranks ``[n, K]``, or -1."""
        if not len(self._rules.limit):
            return
        full = self._rules.full(items)
        for row, slot in enumerate(slots.tolist()):
            self._set[slot] = self._set_of(full[row])

    def has(self, slots: NDArray[np.int64], rank: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each rank is blocked in the slot beside it."""
        return self._has(self._set[slots], rank)

    def below(self, slots: NDArray[np.int64], edge: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many ranks below each edge are blocked in the slot beside it."""
        return self._below(self._set[slots], edge)

    def edges(self, slots: NDArray[np.int64], node: NDArray[np.int32]) -> Ragged:
        """A row per slot: the edges of the node beside it below which every rank is blocked."""
        # Slots with the same set at the same node have the same answer.
        keys, place = np.unique(self._set[slots] << _NODE_BITS | node, return_inverse=True)
        sets, nodes = keys >> _NODE_BITS, (keys & ((1 << _NODE_BITS) - 1)).astype(np.int32)
        pieces = np.cumsum(self._trie.node_edge[nodes + 1] - self._trie.node_edge[nodes]) // EDGES
        cuts = np.flatnonzero(np.diff(pieces)) + 1
        parts = [self._edges(*piece) for piece in zip(np.split(sets, cuts), np.split(nodes, cuts), strict=True)]
        return Ragged.concat(parts).take(place)

    def _edges(self, sets: NDArray[np.int64], nodes: NDArray[np.int32]) -> Ragged:
        trie = self._trie
        edges = trie.edges_of(nodes)
        row = np.repeat(np.arange(len(nodes)), edges.lengths)
        # Most edges are sorted out by their first rank: one that is free settles it. The others are counted.
        first = self._has(sets[row], trie.edge_low[edges.flat])
        row, edge = row[first], edges.flat[first]
        size = trie.edge_high[edge] - trie.edge_low[edge]
        whole = size == 1
        several = np.flatnonzero(~whole)
        whole[several] = self._below(sets[row[several]], edge[several]) == size[several]
        return Ragged.of_pairs(row[whole], edge[whole], len(nodes))

    def _has(self, sets: NDArray[np.int64], rank: NDArray[np.int32]) -> NDArray[np.bool_]:
        bit = self._bits[sets, rank // WORD] >> (rank % WORD).astype(np.uint64)
        return (bit & np.uint64(1)).astype(bool)

    def _below(self, sets: NDArray[np.int64], edge: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._count(sets, self._trie.edge_high[edge]) - self._count(sets, self._trie.edge_low[edge])

    def _count(self, sets: NDArray[np.int64], rank: NDArray[np.int32]) -> NDArray[np.int64]:
        """How many ranks of the set are smaller."""
        word = rank // WORD
        smaller = (np.uint64(1) << (rank % WORD).astype(np.uint64)) - np.uint64(1)
        return self._before[sets, word].astype(np.int64) + np.bitwise_count(self._bits[sets, word] & smaller)

    def _set_of(self, full: NDArray[np.int64]) -> int:
        """The number of the set where these groups are full; a new one is made."""
        key = full.tobytes()
        if key in self._number:
            return self._number[key]
        if len(self._number) == len(self._bits):
            self._make_room()
        number = len(self._number)
        bits = self._bits[number]
        bits[:] = self._excluded
        for group in full.tolist():
            members = self._rules.members[group]
            if len(members) > len(bits):  # setting so many bits one by one takes longer than joining whole words
                bits |= self._large_group(group)
            else:
                np.bitwise_or.at(bits, members // WORD, np.uint64(1) << (members % WORD).astype(np.uint64))
        counts = np.bitwise_count(bits)
        self._before[number] = np.cumsum(counts, dtype=np.int32) - counts
        self._number[key] = number
        return number

    def _large_group(self, group: int) -> NDArray[np.uint64]:
        """The bits of a group that has more ranks than a set has words: there are few of those."""
        if group not in self._large:
            members = np.zeros(len(self._trie), dtype=bool)
            members[self._rules.members[group]] = True
            self._large[group] = _packed(members, self._bits.shape[1])
        return self._large[group]

    def _make_room(self) -> None:
        """Only the sets of lists stay, with room for as many again."""
        used = np.union1d(self._set, [_NOTHING_FULL])  # ascending, so the set of nothing full stays number 0
        self._set = np.searchsorted(used, self._set)
        keys = list(self._number)
        self._number = {keys[old]: new for new, old in enumerate(used.tolist())}
        for name in ("_bits", "_before"):
            old = getattr(self, name)
            new = np.zeros((max(SETS, 2 * len(used)), old.shape[1]), dtype=old.dtype)
            new[: len(used)] = old[used]
            setattr(self, name, new)


def _packed(ranks: NDArray[np.bool_], words: int) -> NDArray[np.uint64]:
    """``[words]`` bits, the first rank's the lowest of the first word."""
    packed = np.zeros(words * WORD // 8, dtype=np.uint8)
    octets = np.packbits(ranks, bitorder="little")
    packed[: len(octets)] = octets
    return packed.view("<u8")
