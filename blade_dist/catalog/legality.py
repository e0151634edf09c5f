"""What engine and learner share to know the legal lists: the trie on disk, K, the end token, the rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Prompts, Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legal import LegalSets, ListWriters, replay
from blade_dist.catalog.rules import Rules, load_rules
from blade_dist.catalog.trie import Trie, build_trie
from blade_dist.errors import UserError
from blade_dist.settings import ListSettings
from blade_dist.store.files import read_json, readable, whole_folder, write_json

_NO_ITEMS = Ragged.of([[]])
_MORE_ROOM: dict[ExcludeHistory, str] = {
    True: "lower lists.k, or set lists.exclude_history to shown (what the prompt shows) or false",
    "shown": "lower lists.k or data.max_history, or set lists.exclude_history=false",
}


def write_trie(codec: Codec, folder: Path) -> None:
    """Builds the codec's trie into ``folder``, which appears when it is whole."""
    save_trie(build_trie(codec.item_blocks), codec, folder)


def save_trie(trie: Trie, codec: Codec, folder: Path) -> None:
    """Saves the codec's trie as ``folder``, which appears when it is whole."""
    with whole_folder(folder) as temporary:
        trie.save(temporary)
        write_json(temporary / "trie.json", {"codec": codec.fingerprint(), "prefix_free": True})


def load_trie(codec: Codec, folder: Path) -> Trie:
    """Maps the codec's trie.

    Raises:
        UserError: none is there, or it was built for other tokens.
    """
    with readable(folder / "trie.json", f"delete {folder.parent}, and make it again"):
        built = read_json(folder / "trie.json")
        known = built and built["codec"]
    if built is None:
        raise UserError(f"{folder}: no trie of the catalog there; run the data stage again, or set the right run.dir")
    if known != codec.fingerprint():
        raise UserError(
            f"{folder}: the tokenizer or the items' tokens have changed since the trie was built "
            f"(codec {codec.fingerprint()}, trie of {str(known)[:16]}): delete {folder.parent} and run the data stage"
        )
    # version 0.1's tries hold the items without their separators
    if not built.get("prefix_free"):
        return build_trie(codec.item_blocks)
    trie = Trie.load(folder)
    tokens = codec.item_blocks.take(trie.item.astype(np.int64))
    if not (np.array_equal(tokens.flat, trie.token) and np.array_equal(tokens.offsets, trie.offset)):
        raise UserError(f"{folder}: damaged (its tokens are not the items'): delete {folder.parent}, and make it again")
    return trie


@dataclass(frozen=True, eq=False)
class Legality:
    """The legal lists of a run."""

    trie: Trie
    k: int
    """Items per list."""
    end: int
    """Token after the last item."""
    rules: Rules | None = None
    """Over the trie's ranks."""

    @classmethod
    def load(cls, lists: ListSettings, codec: Codec, folder: Path, catalog: Path) -> Legality | None:
        """With the trie in ``folder`` (see :func:`load_trie`) and the folder of the catalog, which has the groups.

        None where lists are free text.
        """
        if lists.constrain == "none":
            return None
        trie, rules = load_trie(codec, folder), load_rules(lists, catalog)
        ranked = None if rules is None else rules.ranked(trie)
        return cls(trie, lists.k, codec.end, ranked)

    def writers(self, slots: int, early: bool = False) -> ListWriters:
        """``slots`` empty lists; ``early``: as engines write them, to the last decision only."""
        return ListWriters(self.trie, self.k, self.end, slots, early, self.rules)

    def sets(self, tokens: Ragged, excluded: Ragged) -> LegalSets:
        """The legal set at every token of finished lists.

        Args:
            tokens: int32, ``n`` lists, each with all of its tokens.
            excluded: catalog indices that a list may not hold, ``n`` rows, none twice in a row.

        Raises:
            ValueError: a list that is not legal.
        """
        return replay(self.writers(len(tokens)), tokens, excluded)[0]

    def read(self, tokens: Ragged, excluded: Ragged) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """What engines wrote, which leave out what follows the last decision.

        Args:
            tokens: int32, ``n`` lists.
            excluded: as for :meth:`sets`.

        Returns:
            int32 ``[n, K]`` catalog indices; ``[T]`` whether each token was one of several legal ones.

        Raises:
            ValueError: a list that is not legal.
        """
        sets, items = replay(self.writers(len(tokens), early=True), tokens, excluded)
        return items, sets.sizes(self.trie) > 1


def room_for_all(items: int, k: int, rules: Rules | None) -> int:
    """How many of the catalog's items fit a list at most, whatever the history.

    Raises:
        UserError: fewer than ``k``.
    """
    if rules is None:
        return items
    room = int(rules.room(_NO_ITEMS)[0])  # one user without a history
    if room < k:
        raise UserError(
            f"lists.exclude, lists.at_most: they leave room for {room} of {items} items in a list, fewer than lists.k "
            f"= {k}; exclude less, raise the limits, or lower lists.k"
        )
    return room


def check_free_items(
    prompts: Prompts, items: int, k: int, exclude_history: ExcludeHistory, rules: Rules | None = None
) -> None:
    """Raises UserError where a user has fewer than ``k`` items that a list may hold (as far as it can be known)."""
    room = room_for_all(items, k, rules)
    # An excluded item takes at most one place, so most runs need no look at each user.
    excluded = prompts.excluded(exclude_history)
    if room - int(excluded.lengths.max(initial=0)) >= k:
        return
    free = items - excluded.lengths if rules is None else rules.room(excluded)
    if (short := np.flatnonzero(free < k)).size:
        row = short[0]
        raise UserError(
            f"lists.k: user {prompts.user[row]!r} has {free[row]} of {items} items outside the history"
            f"{'' if rules is None else ' that fit a list under lists.exclude and lists.at_most'}, fewer than "
            f"the {k} of a list; {_MORE_ROOM[exclude_history]}"
        )
