"""Which lists one request may have: K and the rules, over a catalog that is opened once. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import Legality, load_trie
from blade_dist.catalog.rules import EVERY, Rules, make_rules
from blade_dist.catalog.trie import Trie
from blade_dist.settings import ListSettings

KEPT_TERMS = 64
"""Different terms at once, the least recently used is dropped: rules hold a few bytes per item of the catalog."""


@dataclass(frozen=True, eq=False)
class Terms:
    """What some settings of lists mean for a catalog."""

    lists: ListSettings
    legality: Legality | None
    """None where lists are free text."""
    rules: Rules | None
    """Over catalog indices; None where no list could break any."""
    longest: int
    """Tokens of the longest list."""


class TermBook:
    """The terms of any settings of lists, with one trie and one catalog."""

    def __init__(self, codec: Codec, trie: Path, catalog: Path) -> None:
        """``trie`` and ``catalog`` are folders, which are opened where they are needed."""
        self._codec = codec
        self._folders = trie, catalog
        self._terms: OrderedDict[str, Terms] = OrderedDict()

    def terms(self, lists: ListSettings) -> Terms:
        """The terms, made where these settings are not among the last ones.

        Raises:
            UserError: a rule about an item or a group that is not there; no trie, or one of other tokens.
        """
        key = lists.model_dump_json()
        if key not in self._terms:
            self._terms[key] = self._make(lists)
            if len(self._terms) > KEPT_TERMS:
                self._terms.popitem(last=False)
        self._terms.move_to_end(key)
        return self._terms[key]

    def _make(self, lists: ListSettings) -> Terms:
        rules = make_rules(lists, self._catalog)
        legality = None
        if lists.constrain != "none":
            ranked = None if rules is None else rules.ranked(self._trie)
            legality = Legality(self._trie, lists.k, self._codec.end, ranked)
        return Terms(lists, legality, rules, self._codec.max_list_tokens(lists.k))

    @cached_property
    def _trie(self) -> Trie:
        return load_trie(self._codec, self._folders[0])

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog.load(self._folders[1])


def tightened(lists: ListSettings, k: int | None, at_most: dict[str, int]) -> ListSettings:
    """``lists`` with another K and further limits of groups: of two limits the lower one holds.

    >>> tightened(ListSettings(at_most={"a": 2, "*": 3}), None, {"*": 1, "b": 5}).at_most
    {'a': 1, '*': 1, 'b': 3}
    """
    both = (lists.at_most, at_most)
    limits = {}
    for name in dict.fromkeys([*lists.at_most, *at_most]):
        limits[name] = min(of[name] if name in of else of[EVERY] for of in both if name in of or EVERY in of)
    return lists.model_copy(update={"k": k or lists.k, "at_most": limits})
