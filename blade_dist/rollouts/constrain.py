"""Catalog-constrained sampling: the lists of an engine's running requests, and the mask of their next tokens.

One class for every engine interface; the adapters beside it (:mod:`processor_v1`, :mod:`processor_v2`) only say which
request sits where and what it has written. No vLLM import.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legal import LegalSets, ListWriters
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.terms import TermBook
from blade_dist.catalog.trie import ROOT
from blade_dist.settings import ListSettings

OPTION = "blade_lists"
"""Key of :func:`constraint_options` in vLLM's ``additional_config``."""
EXCLUDED, WRITTEN, LISTS = "blade_excluded", "blade_written", "blade_terms"
"""Keys of a request's ``extra_args``: items that its list may not hold; how many of the prompt's last tokens are
already the list's; settings of its list, where they are not the engine's."""

WIDE = 256
"""Edges from which a node's tokens are kept as a ready mask: the root's would be scattered anew for every new item."""
KEPT_WRITERS = 8
"""Writers at once, but for those that running requests need."""
KEPT_MASKS = 64
"""Ready masks at once, the least recently used is dropped: each is a byte per token of the vocabulary."""


def constraint_options(
    lists: ListSettings, codec: Path, trie: Path, catalog: Path, early: bool = True
) -> dict[str, Any]:
    """What an adapter needs to find the catalog, as plain values; ``early``: see :class:`ConstrainedLists`."""
    paths = {"codec": str(codec), "trie": str(trie), "catalog": str(catalog)}
    return {"lists": lists.model_dump(), **paths, "early": early}


class ConstrainedLists:
    """Slots of an engine's batch, each with a list that is being written.

    A slot's state follows from the tokens of its list alone, and is never trusted to be up to date: vLLM moves requests
    between slots, preempts them and brings them back with output already written. So a new request begins empty, and
    whatever its list has gained since the last look is read just before its next mask (:meth:`catch_up`).
    """

    def __init__(
        self, book: TermBook, lists: ListSettings, slots: int, device: torch.device | str, early: bool = True
    ) -> None:
        """No slot is in use.

        ``early``: a list ends as soon as its last item is settled, whose forced tokens are for the reader to add.

        Raises:
            ValueError: ``lists`` are free text.
        """
        self._book, self._early = book, early
        self._own = lists.model_dump_json()
        self._writers = {self._own: _legality(book, lists).writers(slots, early=early)}
        """By settings of lists: nearly always the engine's own alone."""
        self._of = np.full(slots, self._own, dtype=object)
        """Of each slot, the key of its writers."""
        self._read = np.zeros(slots, dtype=np.int64)
        legality = _legality(book, lists)
        self._mask = LegalMask(legality, device)
        self.width = 1 + max(int(legality.trie.token.max()), legality.end)
        """One more than the largest token of any list."""

    @classmethod
    def of(cls, vllm_config: Any, device: torch.device | str) -> ConstrainedLists:
        """As an engine's ``additional_config`` describes it."""
        options = vllm_config.additional_config[OPTION]
        book = TermBook(Codec.load(Path(options["codec"])), Path(options["trie"]), Path(options["catalog"]))
        slots = vllm_config.scheduler_config.max_num_seqs
        return cls(book, ListSettings(**options["lists"]), slots, device, options["early"])

    def begin(self, slot: int, arguments: dict[str, Any]) -> None:
        """A new request in the slot, or a preempted one again; what it has written is read by :meth:`catch_up`.

        ``arguments``: its ``extra_args``.
        """
        self._of[slot] = self._key(arguments.get(LISTS))
        self._writers[self._of[slot]].start(np.array([slot]), Ragged.of([arguments[EXCLUDED]]))
        self._read[slot] = 0

    def move(self, source: int, target: int, swap: bool) -> None:
        """A request moves to another slot; with ``swap`` the two exchange their slots."""
        sources, targets = (np.array(pair if swap else pair[:1]) for pair in ((source, target), (target, source)))
        for writers, places in self._grouped(sources):
            writers.copy(sources[places], targets[places])
        for state in (self._of, self._read):
            state[targets] = state[sources]

    def read(self, slot: int) -> int:
        """How many tokens of the slot's list have been read."""
        return int(self._read[slot])

    def catch_up(self, slots: NDArray[np.int64], news: Sequence[Sequence[int]]) -> None:
        """Reads the tokens that each slot's list has gained since the last time.

        Raises:
            RuntimeError: the engine shows a placeholder instead of a token.
        """
        # position by position over all slots: a token's meaning depends on the one before it, lists are independent
        for position in range(max(map(len, news), default=0)):
            has = [number for number, tokens in enumerate(news) if len(tokens) > position]
            tokens = np.array([news[number][position] for number in has], dtype=np.int32)
            if (tokens < 0).any():  # what asynchronous scheduling puts where a token is not known yet
                raise RuntimeError("the engine requires the next token of a list before it knows the last one")
            for writers, places in self._grouped(slots[has]):
                writers.write(slots[has][places], tokens[places])
        self._read[slots] += [len(tokens) for tokens in news]

    def apply(self, logits: torch.Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> torch.Tensor:
        """Sets the logits of illegal tokens to -inf, in place.

        Args:
            logits: ``[R, V]``.
            rows: ``[n]`` rows of ``logits`` that belong to lists.
            slots: ``[n]`` their slots.
        """
        # legal sets live on the host and are small; only row and column numbers cross to the device
        illegal = ~self._mask.allowed(self._legal(slots), logits.shape[1])
        if len(rows) == len(logits) and (rows == np.arange(len(rows))).all():
            return logits.masked_fill_(illegal, -torch.inf)
        where = torch.from_numpy(rows).to(logits.device)
        logits[where] = logits[where].masked_fill(illegal, -torch.inf)
        return logits

    def _legal(self, slots: NDArray[np.int64]) -> LegalSets:
        groups = self._grouped(slots)
        if len(groups) == 1:
            return groups[0][0].legal(slots)
        sets = LegalSets.concat([writers.legal(slots[places]) for writers, places in groups])
        return sets.take(np.argsort(np.concatenate([places for _, places in groups])))

    def _grouped(self, slots: NDArray[np.int64]) -> list[tuple[ListWriters, NDArray[np.int64]]]:
        """The writers of the given slots, each with the places of its slots among them, ascending."""
        if len(self._writers) == 1:
            return [(next(iter(self._writers.values())), np.arange(len(slots)))]
        keys = self._of[slots]
        return [(self._writers[key], np.flatnonzero(keys == key)) for key in dict.fromkeys(keys)]

    def _key(self, lists: dict[str, Any] | None) -> str:
        """Of the writers for these settings, which are made where there are none.

        Writers of many settings would take memory for ever: those that no slot uses are dropped first.
        """
        if lists is None:
            return self._own
        settings = ListSettings(**lists)
        key = settings.model_dump_json()
        if key not in self._writers:
            if len(self._writers) >= KEPT_WRITERS:
                used = {self._own, *self._of}
                self._writers = {name: writers for name, writers in self._writers.items() if name in used}
            self._writers[key] = _legality(self._book, settings).writers(len(self._read), early=self._early)
        return key


def _legality(book: TermBook, lists: ListSettings) -> Legality:
    legality = book.terms(lists).legality
    if legality is None:
        raise ValueError("lists.constrain is none, and an engine was started with the catalog's logits processor")
    return legality


class LegalMask:
    """Legal sets as boolean rows over the vocabulary."""

    def __init__(self, legality: Legality, device: torch.device | str) -> None:
        self._trie = legality.trie
        self._device = device
        self._wide: OrderedDict[int, torch.Tensor] = OrderedDict()

    def allowed(self, sets: LegalSets, vocab: int) -> torch.Tensor:
        """bool ``[D, vocab]`` on the device, of ``D`` legal sets.

        A set is ``only`` one token, or the edges of a trie node without those that are ``gone`` (every item below is
        excluded or written).
        """
        trie = self._trie
        allowed = torch.zeros((len(sets), vocab), dtype=torch.bool, device=self._device)
        # a position with one legal token has a negative mark for a node: out of bounds in a trie of the root alone
        node = np.maximum(sets.node, ROOT)
        fan_out = np.where(sets.node < 0, 0, trie.node_edge[node + 1] - trie.node_edge[node])
        wide = fan_out >= WIDE
        # Many lists stand at the same few wide nodes, above all the root: one mask for all of them, row by row
        for node in np.unique(sets.node[wide]):
            rows = np.flatnonzero(sets.node == node)
            allowed[self._index(rows)] = self._ready(int(node), vocab)
        narrow = np.flatnonzero((sets.node >= 0) & ~wide)
        edges = trie.edges_of(sets.node[narrow])
        single = np.flatnonzero(sets.node < 0)
        row: list[NDArray] = [np.repeat(narrow, edges.lengths), single]
        token: list[NDArray] = [trie.edge_token(edges.flat), sets.only[single]]
        allowed[self._index(np.concatenate(row)), self._index(np.concatenate(token))] = True
        if len(sets.gone.flat):  # last, as it takes back what the node's own edges have allowed
            row_gone = np.repeat(np.arange(len(sets)), sets.gone.lengths)
            allowed[self._index(row_gone), self._index(trie.edge_token(sets.gone.flat))] = False
        return allowed

    def _ready(self, node: int, vocab: int) -> torch.Tensor:
        if node in self._wide:
            self._wide.move_to_end(node)
            return self._wide[node]
        mask = torch.zeros(vocab, dtype=torch.bool, device=self._device)
        mask[self._index(self._trie.edge_token(self._trie.edges_of(np.array([node])).flat))] = True
        self._wide[node] = mask
        if len(self._wide) > KEPT_MASKS:
            self._wide.popitem(last=False)
        return mask

    def _index(self, numbers: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64)).to(self._device)
