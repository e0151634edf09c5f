"""Legal lists: what may be written next, for many lists at once. Pure numpy over the trie.

A list is K different items, one after another, none of them excluded (what the user has had) or blocked by a rule. An
item ends with its last token, as no item's tokens begin another's. The legal next tokens are those that lead to an item
which is still free, and the end after K items. Sampling renormalises over them, and so does the learner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, offsets_of
from blade_dist.catalog.blocked import BlockedRanks
from blade_dist.catalog.rules import Rules
from blade_dist.catalog.trie import ONE_ITEM, ROOT, Trie

OVER = -2
"""Instead of a node: all K items are written."""
_NOBODY = -1
_EDGE_BITS = 32


@dataclass(frozen=True)
class LegalSets:
    """The legal next tokens at each of ``D`` positions, by reference to the trie.

    Where ``node`` is one: the tokens of its edges but those in ``gone``. Elsewhere: the token ``only``.
    """

    node: NDArray[np.int32]
    """``[D]``, negative where there is one legal token by itself."""
    only: NDArray[np.int32]
    """``[D]`` that token."""
    gone: Ragged
    """int64, ``D`` rows: edges of the node below which no item is free."""

    def __len__(self) -> int:
        return len(self.node)

    def sizes(self, trie: Trie) -> NDArray[np.int64]:
        """``[D]`` how many tokens are legal."""
        node = np.maximum(self.node, ROOT)
        edges = (trie.node_edge[node + 1] - trie.node_edge[node]).astype(np.int64)
        return np.where(self.node < 0, 1, edges - self.gone.lengths)

    def take(self, rows: NDArray[np.int64]) -> LegalSets:
        """The given positions."""
        return LegalSets(self.node[rows], self.only[rows], self.gone.take(rows))

    @classmethod
    def concat(cls, parts: list[LegalSets]) -> LegalSets:
        """All positions of all parts, in order."""
        node, only = (np.concatenate([getattr(part, name) for part in parts]) for name in ("node", "only"))
        return cls(node, only, Ragged.concat([part.gone for part in parts]))


class ListWriters:
    """``slots`` lists that are being written side by side.

    A slot stands at a node of the trie; or at :data:`ONE_ITEM`, where a single item can follow and its remaining
    tokens are forced; or it is :data:`OVER`. For instance, with K = 2 and the items 5 7, 5 8 and 6 4::

        written      stands at        legal next
        nothing      the root         5, 6
        5            the node of 5    7, 8
        5 8          the root         5, 6 (the item 5 7 is still free)
        5 8 6        ONE_ITEM         4
        5 8 6 4      OVER             end

    Had 5 7 been excluded, 5 would not be legal after ``5 8``: no free item is below that edge.
    """

    def __init__(
        self,
        trie: Trie,
        k: int,
        end: int,
        slots: int,
        early: bool = False,
        rules: Rules | None = None,
    ) -> None:
        """All slots at the beginning of a list, nothing excluded.

        Args:
            trie: of the catalog's items.
            k: items per list.
            end: token after the last item.
            slots: lists.
            early: a list ends as soon as its last item is settled. The tokens that would follow are forced, so an
                engine saves their forward passes.
            rules: over the trie's ranks.
        """
        self._early = early
        self._trie = trie
        self._k = k
        self._end = end
        self._node = np.full(slots, ROOT, dtype=np.int32)
        self._rank = np.zeros(slots, dtype=np.int32)
        self._depth = np.zeros(slots, dtype=np.int32)
        self._written = np.zeros(slots, dtype=np.int32)
        # ranks that may not be written (again): the items of the list; the excluded ones, ascending
        self._taken = np.full((slots, k), _NOBODY, dtype=np.int32)
        self._excluded = [np.zeros(0, dtype=np.int32)] * slots
        self._blocked = None if rules is None else BlockedRanks(rules, trie, slots)

    def start(self, slots: NDArray[np.int64], excluded: Ragged) -> None:
        """New lists; ``excluded``: catalog indices, a row per slot."""
        self._node[slots], self._depth[slots], self._written[slots] = ROOT, 0, 0
        self._taken[slots] = _NOBODY
        ranks = Ragged(np.asarray(self._trie.rank[excluded.flat]), excluded.offsets)
        for row, slot in enumerate(np.asarray(slots).tolist()):
            self._excluded[slot] = np.sort(ranks[row])
        if self._blocked is not None:
            self._blocked.start(slots)

    def copy(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Each target slot gets the list of its source slot, all at the same time."""
        # Slots may swap: each right-hand side is a copy, made before anything is written.
        for state in (self._node, self._rank, self._depth, self._written, self._taken):
            state[target] = state[source]
        excluded = [self._excluded[slot] for slot in np.asarray(source).tolist()]
        for slot, ranks in zip(np.asarray(target).tolist(), excluded, strict=True):
            self._excluded[slot] = ranks
        if self._blocked is not None:
            self._blocked.copy(source, target)

    def write(self, slots: NDArray[np.int64], tokens: NDArray[np.int32]) -> None:
        """One more token for each of the given slots.

        Args:
            slots: int64 ``[n]``, none twice.
            tokens: int32 ``[n]``.

        Raises:
            ValueError: a token that was not legal.
        """
        tokens, node = np.asarray(tokens), self._node[slots]
        if self._early and (stops := self._settled(slots) & (tokens == self._end)).any():
            self._finish(slots[stops], self._rank[slots[stops]])
            slots, tokens, node = slots[~stops], tokens[~stops], node[~stops]
        if self._blocked is not None and (short := (tokens == self._end) & (node == ROOT)).any():
            self._end_short(slots[short])
            slots, tokens, node = slots[~short], tokens[~short], node[~short]
        # What is left of the slots: at a node, or within an item's forced tokens, or over.
        inside, single = node >= 0, node == ONE_ITEM
        edge, there = self._trie.find_edge(node[inside], tokens[inside])
        legal = self._next_of_one(slots[single]) == tokens[single]
        if not (there.all() and legal.all() and (tokens[node == OVER] == self._end).all()):
            raise ValueError("a list holds a token that was not legal: it was not written under this trie")
        self._node[slots[inside]] = self._trie.edge_node[edge]
        self._rank[slots[inside]] = self._trie.edge_low[edge]  # the item, where only one is below the edge
        going = slots[inside | single]
        self._depth[going] += 1
        rank = self._rank[going]
        done = (self._node[going] == ONE_ITEM) & (self._depth[going] == self._trie.lengths(rank))
        self._finish(going[done], rank[done])

    def legal(self, slots: NDArray[np.int64]) -> LegalSets:
        """What may follow in each of the given slots.

        Under rules, what a list holds may leave it no further item: it ends there, short of K.

        Raises:
            ValueError: without rules, no item is free for one of them.
        """
        node = self._node[slots]
        only = np.full(len(slots), self._end, dtype=np.int32)
        single = node == ONE_ITEM
        only[single] = self._next_of_one(slots[single])
        if self._early:
            only[self._settled(slots)] = self._end
        inside = np.flatnonzero(node >= 0)
        gone = self._inside(slots[inside])
        lengths = np.zeros(len(slots), dtype=np.int64)
        lengths[inside] = gone.lengths
        sets = LegalSets(node, only, Ragged(gone.flat, offsets_of(lengths)))
        return sets if (free := sets.sizes(self._trie) > 0).all() else self._ended(sets, free)

    def count(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """``[n]`` how many items are written to their last token."""
        written: NDArray[np.int32] = self._written[slots]
        return written

    def items(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """``[n, K]`` catalog indices of the items that are written so far, then :data:`MISS`."""
        rank = self._taken[slots]
        return np.where(rank == _NOBODY, MISS, self._trie.item[rank]).astype(np.int32)

    def _ended(self, sets: LegalSets, free: NDArray[np.bool_]) -> LegalSets:
        """``sets`` with the end as the one legal token where nothing is ``free`` ``[n]``."""
        if self._blocked is None:
            raise ValueError("no item is left for a list: lists.k is larger than the number of items that it may hold")
        lengths = np.where(free, sets.gone.lengths, 0)
        gone = Ragged(sets.gone.flat[np.repeat(free, sets.gone.lengths)], offsets_of(lengths))
        return LegalSets(np.where(free, sets.node, OVER).astype(np.int32), sets.only, gone)

    def _end_short(self, slots: NDArray[np.int64]) -> None:
        """Ends lists at the start of an item, where no item is left for them."""
        if (self._depth[slots] > 0).any() or (self.legal(slots).node != OVER).any():
            raise ValueError("a list ends although an item is left for it: it was not written under this trie")
        self._node[slots] = OVER

    def _settled(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the last item can only be one."""
        return (self._node[slots] == ONE_ITEM) & (self._written[slots] == self._k - 1)

    def _finish(self, slots: NDArray[np.int64], rank: NDArray[np.int32]) -> None:
        self._taken[slots, self._written[slots]] = rank
        self._written[slots] += 1
        self._node[slots] = np.where(self._written[slots] == self._k, OVER, ROOT)
        self._depth[slots] = 0
        if self._blocked is not None:
            self._blocked.hold(slots, self._taken[slots])

    def _next_of_one(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """The next token of slots whose item is settled."""
        token: NDArray[np.int32] = self._trie.token[self._trie.offset[self._rank[slots]] + self._depth[slots]]
        return token

    def _inside(self, slots: NDArray[np.int64]) -> Ragged:
        """For slots at a node: the edges below which no item is free.

        An edge is closed when as many ranks below it are taken, excluded or blocked as there are below it. So only
        edges that lead to such a rank are counted, never all edges of a node: the root may have 100,000.
        """
        trie, node, blocked = self._trie, self._node[slots], self._blocked
        row, rank = self._gone(slots, trie.node_low[node], trie.node_high[node])
        if blocked is not None:  # a blocked rank is counted as such, taken or not
            free = ~blocked.has(slots[row], rank)
            row, rank = row[free], rank[free]
        # The edge that leads to each such rank, by the rank's next token; one number for each (row, edge) pair, so
        # that all rows are counted at once.
        edge, _ = trie.find_edge(node[row], trie.token[trie.offset[rank] + self._depth[slots][row]])
        pairs, taken_below = np.unique((row << _EDGE_BITS) | edge, return_counts=True)
        row, edge = pairs >> _EDGE_BITS, pairs & ((1 << _EDGE_BITS) - 1)
        left = trie.edge_high[edge] - trie.edge_low[edge]
        if blocked is None:
            return Ragged.of_pairs(row[left == taken_below], edge[left == taken_below], len(slots))
        empty = left - blocked.below(slots[row], edge) == taken_below
        whole = blocked.edges(slots, node)
        rows = np.concatenate([row[empty], np.repeat(np.arange(len(slots)), whole.lengths)])
        return Ragged.of_pairs(rows, np.concatenate([edge[empty], whole.flat]), len(slots))

    def _gone(
        self, slots: NDArray[np.int64], low: NDArray[np.int32], high: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Of the ranks from ``low`` to before ``high`` ``[n]``, those that a list holds or may not: row and rank."""
        taken = self._taken[slots]
        held = (taken >= low[:, None]) & (taken < high[:, None])
        parts = [self._excluded[slot] for slot in slots.tolist()]
        # At the root every excluded rank counts. Deeper, few do: they ascend, so two binary searches cut them out.
        for row in np.flatnonzero((low > 0) | (high < len(self._trie))).tolist():
            first, last = parts[row].searchsorted((low[row], high[row]))
            parts[row] = parts[row][first:last]
        rows = np.repeat(np.arange(len(slots)), [len(part) for part in parts])
        return np.concatenate([np.nonzero(held)[0], rows]), np.concatenate([taken[held], *parts])


def replay(writers: ListWriters, tokens: Ragged, excluded: Ragged) -> tuple[LegalSets, NDArray[np.int32]]:
    """Reads lists that were written under the trie, all side by side.

    Args:
        writers: with ``n`` slots.
        tokens: int32, ``n`` lists, each written under the trie (perhaps not to the end).
        excluded: catalog indices without repeats, ``n`` rows.

    Returns:
        The legal set at every token, in the order of ``tokens.flat``; the items, int32 ``[n, k]``.

    Raises:
        ValueError: a list that is not legal.
    """
    writers.start(np.arange(len(tokens)), excluded)
    parts, places = [], []
    for position in range(int(tokens.lengths.max(initial=0))):
        rows = np.flatnonzero(tokens.lengths > position)
        place = tokens.offsets[rows] + position
        parts.append(writers.legal(rows))
        places.append(place)
        writers.write(rows, tokens.flat[place])
    items = writers.items(np.arange(len(tokens)))
    if not parts:
        return writers.legal(np.arange(0)), items
    # They were read position by position; ``places`` brings them back to list after list.
    return LegalSets.concat(parts).take(np.argsort(np.concatenate(places), kind="stable")), items
