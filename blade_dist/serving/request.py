"""What is asked for, as people write it; and what it means for an export's catalog. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from blade_dist.batches import Ragged
from blade_dist.catalog.names import GROUP, named_items
from blade_dist.catalog.terms import tightened
from blade_dist.errors import UserError, quoted
from blade_dist.serving.opened import OpenedExport
from blade_dist.settings import ListSettings, Way
from blade_dist.settings.section import Name, NonNegative, Positive, Strict

SHOWN = 5
"""Ids that a message names."""
ALSO = {"greedy": "list", "sample": "sampled"}
"""Other words for ways of decoding."""
Asked = Annotated[Way, BeforeValidator(lambda given: ALSO.get(given, given) if isinstance(given, str) else given)]


def number(given: object) -> object:
    """An error for true and false, which pydantic takes for 1 and 0."""
    if isinstance(given, bool):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return given


Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(number)]


class ListRequest(Strict):
    """One list that somebody wants."""

    history: list[Name]
    """Item ids, oldest first."""
    k: Annotated[Positive, BeforeValidator(number)] | None = None
    """Items of the list; the export's where it is left out."""
    exclude: list[Name] = Field(default_factory=list)
    """Items that this list may not hold: ids, and ``group:NAME``."""
    at_most: dict[Name, Annotated[NonNegative, BeforeValidator(number)]] = Field(default_factory=dict)
    """How many items of a group it may hold, beside the export's own rules."""
    decode: Asked | None = None
    """``list`` (or ``greedy``), ``rank``, ``beam``, or ``sampled`` (or ``sample``); else the export's."""
    seed: Seed = 0
    """Of ``sampled``."""


@dataclass(frozen=True, eq=False)
class Resolved:
    """A request in the terms of the catalog."""

    history: NDArray[np.int32]
    """Catalog indices that the prompt shows, oldest first."""
    excluded: NDArray[np.int32]
    """Catalog indices that the list may not hold, none twice."""
    lists: ListSettings
    decode: Way
    seed: int
    skipped: list[str]
    """Ids of the history that are no items."""
    cut: int
    """Items of the history that are too old to be shown."""


@dataclass(eq=False)
class Resolver:
    """Turns requests into what an engine needs; keeps what it has looked up."""

    opened: OpenedExport
    _longest: dict[int, int] = field(default_factory=dict)

    def parse(self, content: dict[str, Any], where: str, given: dict[str, Any] | None = None) -> ListRequest:
        """A request of plain values; ``given``: fields where it has none of its own.

        Raises:
            UserError: a field that is missing, unknown or of another kind; names it.
        """
        try:
            return ListRequest.model_validate({**(given or {}), **content})
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{where}{field_name(first['loc']) or 'request'}: {first['msg']}") from None

    def resolve(self, requests: Sequence[ListRequest], where: Sequence[str]) -> list[Resolved]:
        """Every request, in order; ``where``: what a message about each begins with.

        Raises:
            UserError: a history without a known item, an id with a control character, a group or an excluded item
                that is not there, more items than a list can have, or a list that the model has no room for.
        """
        resolved = [self._one(request, name) for request, name in zip(requests, where, strict=True)]
        self._check_room(resolved, where)
        return resolved

    def seen(self, history: Sequence[str]) -> NDArray[np.int32]:
        """Catalog indices that a list may not hold after the history, by the export's rule; unknown ids are skipped."""
        known = np.array([self.opened.index[item] for item in history if item in self.opened.index], dtype=np.int32)
        manifest = self.opened.manifest
        return np.unique(self._seen(known, _once(known, manifest.repeats)[-manifest.max_history :]))

    def _seen(self, known: NDArray[np.int32], shown: NDArray[np.int32]) -> NDArray[np.int32]:
        return {True: known, "shown": shown, False: known[:0]}[self.opened.manifest.lists.exclude_history]

    def _one(self, request: ListRequest, where: str) -> Resolved:
        manifest, index = self.opened.manifest, self.opened.index
        skipped = [item for item in request.history if item not in index]
        _check_readable(skipped, f"{where}history")
        known = np.array([index[item] for item in request.history if item in index], dtype=np.int32)
        if not len(known):
            what = f"none of its {len(skipped)} ids is an item ({_few(skipped)})" if skipped else "is empty"
            raise UserError(f"{where}history: {what}; give at least one item of the catalog")
        decode = request.decode or manifest.decode
        lists = self._lists(request, where)
        ordered = _once(known, manifest.repeats)
        shown = ordered[-manifest.max_history :]
        shown = shown[len(shown) - self._fitting(shown, 1 if decode == "rank" else lists.k, where) :]
        excluded = np.concatenate([self._seen(known, shown), *self._excluded(request, where)])
        excluded = np.unique(excluded).astype(np.int32)
        return Resolved(shown, excluded, lists, decode, request.seed, skipped, len(ordered) - len(shown))

    def _lists(self, request: ListRequest, where: str) -> ListSettings:
        own = self.opened.manifest.lists
        if request.k in (None, own.k) and not request.at_most:
            return own
        names = set(self.opened.catalog.group_names)
        _check_readable([name for name in request.at_most if name not in names], f"{where}at_most")
        lists = tightened(own, request.k, request.at_most)
        if request.k is not None and request.k > (there := self.opened.catalog.on_sale):
            raise UserError(f"{where}k: {request.k} items, and there are {there}; ask for fewer")
        try:
            self.opened.book.terms(lists)
        except UserError as error:
            raise UserError(f"{where}{str(error).removeprefix('lists.')}") from None
        return lists

    def _excluded(self, request: ListRequest, where: str) -> list[NDArray[np.int64]]:
        """Ids that are no items are not refused here: they can't be recommended anyway."""
        index = self.opened.index
        unknown = [name for name in request.exclude if not name.startswith(GROUP) and name not in index]
        _check_readable(unknown, f"{where}exclude")
        items = [index[name] for name in request.exclude if name in index and not name.startswith(GROUP)]
        groups = [name for name in dict.fromkeys(request.exclude) if name.startswith(GROUP)]
        found = named_items(groups, self.opened.catalog, f"{where}exclude") if groups else []
        return [np.array(items, dtype=np.int64), *found]

    def _fitting(self, shown: NDArray[np.int32], k: int, where: str) -> int:
        """How many of the latest items the model's context holds, with the longest list beside them."""
        codec, context = self.opened.codec, self.opened.context
        if k not in self._longest:
            self._longest[k] = codec.max_list_tokens(k)
        room = context - self._longest[k] - len(codec.prefix) - len(codec.suffix)
        count = int(np.searchsorted(np.cumsum(self._item_tokens[shown[::-1]]), room, side="right"))
        if not count:
            raise UserError(
                f"{where}k: a list of {k} items takes up to {self._longest[k]} of the model's {context} tokens, which "
                "leaves no room for a history; ask for fewer"
            )
        return count

    @cached_property
    def _item_tokens(self) -> NDArray[np.int64]:
        return self.opened.codec.shown_blocks.lengths

    def _check_room(self, resolved: Sequence[Resolved], where: Sequence[str]) -> None:
        """Raises UserError where a list can't have as many items as are asked for."""
        items = self.opened.catalog.on_sale
        # requests that change nothing share one object, so that most batches are one group
        groups: dict[int, list[int]] = {}
        for row, one in enumerate(resolved):
            groups.setdefault(id(one.lists), []).append(row)
        for rows in groups.values():
            terms = self.opened.book.terms(resolved[rows[0]].lists)
            excluded = Ragged.of([resolved[row].excluded for row in rows])
            free = items - excluded.lengths if terms.rules is None else terms.rules.room(excluded)
            if (short := np.flatnonzero(free < terms.lists.k)).size:
                row = int(short[0])
                raise UserError(
                    f"{where[rows[row]]}k: {terms.lists.k} items, and {free[row]} of {items} may stand in this list; "
                    "ask for fewer"
                )


def answer(opened: OpenedExport, one: Resolved, items: Sequence[int], logprobs: Sequence[float]) -> dict[str, Any]:
    """As JSON has it: the items with ids, titles and log-probs, and what of the history was left out."""
    named = opened.describe(list(items))
    rows = [entry | {"logprob": float(value)} for entry, value in zip(named, logprobs, strict=True)]
    return {"items": rows, "skipped": one.skipped, "cut": one.cut}


def field_name(parts: Sequence[int | str]) -> str:
    """A place in a request, as pydantic tells it.

    >>> field_name((2, "history", 0))
    '[2].history[0]'
    """
    name = ""
    for part in parts:
        if isinstance(part, int):
            name += f"[{part}]"
        elif "[" not in part:  # of a union pydantic names the member, too
            name += f".{part}" if name else part
    return name


def _once(items: NDArray[np.int32], repeats: str) -> NDArray[np.int32]:
    """The history as training saw it: of several times the first, the last, or all."""
    if repeats == "all":
        return items
    ordered = items if repeats == "first" else items[::-1]
    first = np.sort(np.unique(ordered, return_index=True)[1])
    return ordered[first] if repeats == "first" else ordered[first][::-1]


def _check_readable(ids: Sequence[str], where: str) -> None:
    for item in ids:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in item):  # Cs: half of a character
            raise UserError(f"{where}: {quoted(item)} has a control character, and nothing is called so")


def _few(ids: Sequence[str]) -> str:
    return ", ".join(map(quoted, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")


def notes(answers: Mapping[str, Any]) -> list[str]:
    """Lines about what of a history was left out."""
    lines = []
    if answers["skipped"]:
        lines.append(
            f"{len(answers['skipped'])} ids of the history are no items and were skipped: {_few(answers['skipped'])}"
        )
    if answers["cut"]:
        lines.append(f"the {answers['cut']} oldest items of the history are not shown to the model")
    return lines
