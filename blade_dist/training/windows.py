"""Users' sequences as windows to train on, in which each item but a user's first is predicted once. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.catalog.codec import Codec
from blade_dist.data.split import slices
from blade_dist.learners.packing import PromptLists
from blade_dist.learners.soft_labels import SoftLabels


class Windows:
    """As many windows per user as their transitions (an item and the next) need; their place differs between passes.

    Seven items have six transitions, which take two windows of at most 4; where they are cut is drawn anew for every
    pass, so that an item is not always the first of its window, of which the model sees no history::

        items     0 1 2 3 4 5 6
        one pass  0 1 2 3 4 | 4 5 6        windows share the item at which they are cut
        another   0 1 2 | 2 3 4 5 6
    """

    def __init__(self, lengths: NDArray[np.int64], width: int, seed: int) -> None:
        """
        Args:
            lengths: int64 ``[U]`` items of each user; a user of one item has no window.
            width: transitions per window, at most.
            seed: of the places.
        """
        self._transitions = np.maximum(lengths - 1, 0)
        self._width, self._seed = width, seed
        counts = -(-self._transitions // width)
        self._slack = counts * width - self._transitions
        self._user = np.repeat(np.arange(len(lengths)), counts)
        self._number = ranges(0, counts)

    def __len__(self) -> int:
        return len(self._user)

    def cut(self, sequences: Callable[[NDArray[np.int64]], Ragged], rows: NDArray[np.int64], turn: int) -> Ragged:
        """The items of the given windows in pass ``turn``, ``[n]`` rows; ``sequences`` gives those of users ``[n]``."""
        user, start, stop = self.bounds(rows, turn)
        whole = sequences(user)
        return slices(whole.flat, whole.offsets[:-1] + start, stop - start)

    def bounds(
        self, rows: NDArray[np.int64], turn: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of the given windows in pass ``turn``: the user, the first item, and one after the last (``[n]`` each)."""
        # The first window begins before the sequence by up to what is left over in all of the user's windows.
        shift = np.random.default_rng([self._seed, turn]).random(len(self._slack))
        user = self._user[rows]
        start = self._number[rows] * self._width - np.floor(shift * (self._slack + 1)).astype(np.int64)[user]
        stop = np.minimum(start + self._width, self._transitions[user]) + 1
        return user, np.maximum(start, 0), stop


def training_rows(
    codec: Codec,
    items: Ragged,
    splits: NDArray[np.int64],
    repeats: bool = True,
    soft: SoftLabels | None = None,
) -> PromptLists:
    """Sequences as the model is served them: prompt text, items, prompt text, items; every item but the first counts.

    The text after the history stands at a place of the sequence, so that what follows it is learned as a list is
    written, and what stands before as the next item. With the prompt ``Had {history} next`` and four items::

        Had a b next c d         splits: 2; b, c and d count

    Where items have other tokens in a history than in a list, all stand there as in a history, and are predicted as in
    a list.

    Args:
        codec: writes items as tokens.
        items: int32 catalog indices, ``n`` rows of two or more.
        splits: int64 ``[n]`` items before the prompt's second text, at least one; read only where there is one.
        repeats: whether an item that the row has shown before counts, as where a list may hold it.
        soft: of each of ``items.flat``, what else might stand there; items of one token only.
    """
    text = len(codec.item_blocks)  # the second text as if it were one more item
    shown, listed = (
        Ragged.concat([blocks, Ragged.of([codec.suffix])]) for blocks in (codec.shown_blocks, codec.item_blocks)
    )
    first, rest = items.offsets[:-1], items.lengths - 1
    place = ranges(first + 1, rest)
    later = Ragged(items.flat[place], offsets_of(rest))
    given = np.zeros(len(place), dtype=bool) if repeats else ~items.first_times()[place]
    origin = place
    if len(codec.suffix):
        at = later.offsets[:-1] + splits - 1
        later = Ragged(np.insert(later.flat, at, text), offsets_of(rest + 1))
        given, origin = np.insert(given, at, True), np.insert(origin, at, 0)
    tokens = shown.take(later.flat)
    per_row = offsets_of(tokens.lengths)[later.offsets]
    opening = shown.take(items.flat[first])
    prefix = np.broadcast_to(codec.prefix, (len(items), len(codec.prefix)))
    prompt = np.insert(opening.flat, np.repeat(opening.offsets[:-1], len(codec.prefix)), prefix.reshape(-1))
    return PromptLists.single(
        Ragged(prompt, offsets_of(opening.lengths + len(codec.prefix))),
        Ragged(tokens.flat, per_row),
        given=np.repeat(given, tokens.lengths),
        labels=None if codec.shown_tokens is None else listed.take(later.flat).flat,
        soft=None if soft is None else soft.take(np.repeat(origin, tokens.lengths)),
    )


def continued_lists(codec: Codec, items: Ragged, splits: NDArray[np.int64], places: NDArray[np.int64]) -> PromptLists:
    """Sequences cut at a place, as prompts with lists that are to go on as they begin.

    A list's first token and its places are its decisions. All of its tokens are the same one: it stands for any that a
    list may hold, as they all are read as one vector.

    Args:
        codec: one whose items have a token in a history and another in a list.
        items: int32 catalog indices, ``n`` rows.
        splits: int64 ``[n]`` items in the prompt, at least one.
        places: int64 ``[n, r]`` places of the list, from 1, each once.
    """
    histories = Ragged(items.flat[ranges(items.offsets[:-1], splits)], offsets_of(splits))
    offsets = offsets_of(places.max(axis=1, initial=0) + 1)
    given = np.ones(offsets[-1], dtype=bool)
    given[offsets[:-1]] = given[offsets[:-1, None] + places] = False
    tokens = np.full(len(given), codec.item_tokens.flat[0], dtype=np.int32)
    return PromptLists.single(codec.encode_prompts(histories), Ragged(tokens, offsets), given=given)
