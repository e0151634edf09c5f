"""Beam search over legal lists, item by item: the bookkeeping, without an engine. Pure.

(vLLM's own beam search hands a logits processor growing prompts and no outputs, so that it cannot be constrained.)

Beginnings are compared only with those of as many items: titles need different numbers of decisions, and a list in the
middle of an item would look likelier than one that has finished it. For each position of the list, *going* beginnings
are extended token by token, those that finish the item *wait*, and the best ``width`` that wait are extended by the
next item. Tokens that are the only legal ones are written without a model. A score is a sum of log-probs, so that it
only falls: a going beginning below all of ``width`` waiting ones is dropped. With ``width`` 2 and items of 2 tokens::

    going    [], -            ->  [a], [b]           ->  -             the two best first tokens
    waiting  -, -             ->  -, -               ->  [a c], [b d]  finished; both are extended next
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Ranked
from blade_dist.catalog.legal import LegalSets
from blade_dist.catalog.legality import Legality

Written = tuple[list[int], list[float]]
"""Tokens, and the log-prob of each (0 where it was no decision)."""


class Beams:
    """For each of ``P`` prompts, ``width`` going and ``width`` waiting slots, side by side.

    Slot ``2 * width * p + i`` is prompt ``p``'s going one for ``i < width``, else a waiting one. The score of an empty
    slot is ``-inf``.
    """

    def __init__(self, legality: Legality, excluded: Ragged, width: int) -> None:
        """One empty list per prompt; ``excluded``: catalog indices that its lists may not hold."""
        self._legality = legality
        self._width = width
        self._prompts = len(excluded)
        slots = self._prompts * 2 * width
        first = np.arange(0, slots, 2 * width)  # the others are copies of it, and of each other's
        self._writers = legality.writers(slots)
        self._writers.start(first, excluded)
        self._written: list[Written] = [([], [])] * slots
        self._score = np.full(slots, -np.inf)
        self._score[first] = 0.0
        self._items = np.zeros(self._prompts, dtype=np.int64)
        """Items of each prompt's waiting lists; K where none goes on."""

    def prompt_of(self, slot: int) -> int:
        """Whose list it is."""
        return slot // (2 * self._width)

    def tokens(self, slot: int) -> list[int]:
        """What the slot's list holds so far."""
        return self._written[slot][0]

    def undecided(self) -> NDArray[np.int64]:
        """Slots whose list needs a decision, after every token that needs none; empty when all lists are whole."""
        undecided: list[NDArray[np.int64]] = []
        going = self._going()
        while len(going):
            sets = self._writers.legal(going)
            forced = sets.sizes(self._legality.trie) == 1
            undecided.append(going[~forced])
            self._write_forced(going[forced])
            self._drop_or_advance()
            going = np.setdiff1d(self._going(), np.concatenate(undecided))
        slots = np.concatenate(undecided) if undecided else going
        # one that was undecided early in the loop may have been dropped since, by lists that finished their item
        return np.sort(slots[self._score[slots] > -np.inf])

    def legal(self, slots: NDArray[np.int64]) -> LegalSets:
        """What each of the given slots may go on with."""
        return self._writers.legal(slots)

    def extend(self, slots: NDArray[np.int64], choices: list[dict[int, float]]) -> None:
        """Keeps the best ``width`` extensions of each prompt.

        Args:
            slots: as :meth:`undecided` gave them.
            choices: log-prob (nats) of the likeliest next tokens of each.
        """
        candidates: dict[int, list[tuple[float, int, int]]] = {}
        for slot, nexts in zip(slots.tolist(), choices, strict=True):
            of_prompt = candidates.setdefault(self.prompt_of(slot), [])
            of_prompt.extend((self._score[slot] + p, slot, t) for t, p in nexts.items() if p > -np.inf)
        source, target, token, score = [], [], [], []
        for prompt, of_prompt in candidates.items():
            # equal scores by slot and token, so that the same answers give the same lists on every machine
            best = sorted(of_prompt, key=lambda c: (-c[0], *c[1:]))[: self._width]
            for place, (value, slot, chosen) in enumerate(best):
                source.append(slot)
                target.append(prompt * 2 * self._width + place)
                token.append(chosen)
                score.append(value)
        # all that is read from sources stands before the first write: a slot may be both a source and a target
        before = [self._written[slot] for slot in source]
        steps = [value - self._score[slot] for slot, value in zip(source, score, strict=True)]
        self._score[slots] = -np.inf
        self._writers.copy(np.array(source), np.array(target))
        self._writers.write(np.array(target), np.array(token))
        for slot, (tokens, logprobs), chosen, step, value in zip(target, before, token, steps, score, strict=True):
            self._written[slot] = ([*tokens, chosen], [*logprobs, step])
            self._score[slot] = value
        self._park_finished(np.array(target))
        self._drop_or_advance()

    def best(self) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and log-probs of each prompt's best list, up to its last item (to the end where it is short of K)."""
        first = self._score.reshape(self._prompts, -1).argmax(axis=1) + np.arange(self._prompts) * 2 * self._width
        return [self._written[slot][0] for slot in first], [self._written[slot][1] for slot in first]

    def ranked(self) -> NDArray[np.int32]:
        """Items of each prompt's lists, likeliest list first (of equals the one with the lower tokens).

        int32 ``[P, width, K]`` catalog indices, :data:`MISS` where there are fewer lists or items.
        """
        slots = self._by_score()
        items = self._writers.items(slots)
        items[np.isneginf(self._score[slots])] = MISS
        return items.reshape(self._prompts, self._width, -1)

    def ranked_items(self) -> Ranked:
        """The items of lists of one item, with their log-probs; ``C`` is ``width``."""
        return Ranked(self.ranked()[:, :, 0], self._score[self._by_score()].reshape(self._prompts, self._width))

    def _by_score(self) -> NDArray[np.int64]:
        """Each prompt's waiting slots, the likeliest list first."""
        slots = np.arange(len(self._score)).reshape(self._prompts, 2, self._width)[:, 1].tolist()
        ordered = [sorted(waiting, key=lambda s: (-self._score[s], self._written[s][0])) for waiting in slots]
        return np.array(ordered, dtype=np.int64).reshape(-1)

    def _going(self) -> NDArray[np.int64]:
        going = np.arange(len(self._score)) % (2 * self._width) < self._width
        return np.flatnonzero(going & (self._score > -np.inf))

    def _write_forced(self, slots: NDArray[np.int64]) -> None:
        token = self._only(slots)
        self._writers.write(slots, token)
        for slot, chosen in zip(slots.tolist(), token.tolist(), strict=True):
            tokens, logprobs = self._written[slot]
            self._written[slot] = ([*tokens, chosen], [*logprobs, 0.0])
        self._park_finished(slots)
        self._stop_short(slots[token == self._legality.end])

    def _stop_short(self, slots: NDArray[np.int64]) -> None:
        """Lists that rules have left no item wait as they are where their prompt has no others; else they are dropped.

        (Short of K items they would look likelier than longer ones.)
        """
        scores, prompt = self._score.copy(), slots // (2 * self._width)
        scores[slots] = -np.inf
        others = np.isfinite(scores.reshape(self._prompts, -1)).any(axis=1)[prompt]
        self._score[slots[others]] = -np.inf
        self._park(slots[~others])
        self._items[prompt[~others]] = self._legality.k

    def _only(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """The one legal token of each slot."""
        sets, trie = self._writers.legal(slots), self._legality.trie
        token = sets.only.copy()
        for row in np.flatnonzero(sets.node >= 0).tolist():  # at a node, but only one way on is left
            token[row] = trie.edge_token(np.setdiff1d(trie.edges_of(sets.node[[row]])[0], sets.gone[row]))[0]
        return token

    def _park_finished(self, slots: NDArray[np.int64]) -> None:
        """Lists that have come to the end of this position's item wait."""
        self._park(slots[self._writers.count(slots) > self._items[slots // (2 * self._width)]])

    def _park(self, slots: NDArray[np.int64]) -> None:
        """Of lists that have finished an item and those that wait, the best ``width`` wait (of equals what waits)."""
        width, prompts = self._width, np.unique(slots // (2 * self._width))
        finished = np.full(len(self._score), -np.inf)
        finished[slots] = self._score[slots]
        shape = (self._prompts, 2, width)
        both = np.hstack([self._score.reshape(shape)[prompts, 1], finished.reshape(shape)[prompts, 0]])
        best = np.zeros(both.shape, dtype=bool)
        np.put_along_axis(best, np.argsort(-both, axis=1, kind="stable")[:, :width], True, axis=1)
        # in every row as many come as go, in the order of their slots
        row, comes = np.nonzero(best[:, width:])
        _, goes = np.nonzero(~best[:, :width])
        self._move(prompts[row] * 2 * width + comes, (prompts[row] * 2 + 1) * width + goes)
        self._score[slots] = -np.inf

    def _drop_or_advance(self) -> None:
        """Drops what can't get better than what waits; where nothing is going, the waiting are extended next."""
        scores = self._score.reshape(self._prompts, 2, self._width)
        hopeless = scores[:, 0] <= scores[:, 1].min(axis=1, keepdims=True)
        scores[:, 0][hopeless] = -np.inf
        finished = np.isneginf(scores[:, 0]).all(axis=1) & (self._items < self._legality.k)
        for prompt in np.flatnonzero(finished).tolist():
            self._items[prompt] += 1
            if self._items[prompt] < self._legality.k:
                waiting = self._waiting(prompt)
                self._move(waiting, waiting - self._width)
                self._score[waiting] = -np.inf

    def _waiting(self, prompt: int) -> NDArray[np.int64]:
        return np.arange(self._width) + (2 * prompt + 1) * self._width

    def _move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        self._writers.copy(source, target)
        self._score[target] = self._score[source]
        for old, new in zip(source.tolist(), target.tolist(), strict=True):
            self._written[new] = self._written[old]
