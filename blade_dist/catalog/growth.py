"""Whether one codec writes items as an earlier one did, and which tokens it has beside those. Pure.

A policy knows the tokens that it was trained with. Whatever came between, it can be opened with a later catalog where
each of its tokens still means what it meant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.layout import Layout
from blade_dist.catalog.renewed import Renewed


def writes_as(old: Codec, before: Catalog, new: Codec, after: Catalog) -> bool:
    """Whether the codec ``new`` of ``after`` writes the items of ``before`` as ``old`` does.

    A title is read word by word, so that there the tokenizer decides, and one item that both have. A code says nothing
    by itself: each earlier item must be there, withdrawn perhaps, with its own.
    """
    place = _places(before, after)
    there = np.flatnonzero(place >= 0)
    if old.kind != new.kind or not len(there):
        return False
    if old.kind == "title":
        alike = there[before.titles[there] == after.titles[place[there]]]
        return (
            _same_frame(old, new, None)
            and _same(old.item_tokens.take(alike), new.item_tokens.take(place[alike]), None)
            and old.tokenizer.get_vocab() == new.tokenizer.get_vocab()
        )
    if len(there) < len(place) or (old.shown_tokens is None) != (new.shown_tokens is None):
        return False
    layout = _layout(old, after)
    pairs = [(old.item_tokens, new.item_tokens), (old.shown_tokens, new.shown_tokens)]
    known = all(_same(was, now.take(place), layout) for was, now in pairs if was is not None and now is not None)
    return known and _same_frame(old, new, layout) and (layout is None or _follow(new, _others(place, new), layout))


def growth(old: Codec, before: Catalog, new: Codec, after: Catalog) -> tuple[Layout | None, Renewed]:
    """How a vocabulary grows, where :func:`writes_as` holds (None: it stays), and the later catalog with the earlier
    one's items first, in its order, and the others in the order of their tokens."""
    place = _places(before, after)
    there = place[place >= 0]
    rows, none = np.concatenate([there, _others(place, new)]), np.zeros(0, np.int64)
    return _layout(old, after), Renewed(after.take(rows), len(there), none, none)


def _places(before: Catalog, after: Catalog) -> NDArray[np.int64]:
    """Row in ``after`` of each item of ``before``; -1 where it is not there."""
    row = {item: number for number, item in enumerate(after.item_ids.tolist())}
    return np.array([row.get(item, -1) for item in before.item_ids.tolist()], dtype=np.int64)


def _others(place: NDArray[np.int64], new: Codec) -> NDArray[np.int64]:
    """The other rows, in the order of their tokens."""
    others = np.setdiff1d(np.arange(len(new.item_tokens)), place)
    return others[np.argsort(new.item_tokens.flat[new.item_tokens.offsets[others]])]


def _layout(old: Codec, after: Catalog) -> Layout | None:
    more = len(after) - len(old.item_tokens)
    grows = more > 0 and old.kind != "title" and bool((old.item_tokens.lengths == 1).all())
    return Layout.of(old, more) if grows else None


def _same(was: Ragged, now: Ragged, layout: Layout | None) -> bool:
    flat = was.flat if layout is None else layout.moved(was.flat)
    return np.array_equal(was.lengths, now.lengths) and np.array_equal(flat, now.flat)


def _same_frame(old: Codec, new: Codec, layout: Layout | None) -> bool:
    """Whether vocabulary, ends and the prompt around the items are the same."""
    size = old.vocabulary if layout is None else layout.size
    ends = (old.separator, old.end, old.pad) == (new.separator, new.end, new.pad)
    texts = ((old.prefix, new.prefix), (old.suffix, new.suffix))
    return size == new.vocabulary and ends and all(np.array_equal(was, now) for was, now in texts)


def _follow(new: Codec, others: NDArray[np.int64], layout: Layout) -> bool:
    """Whether the tokens that are new stand where the grown vocabulary has them."""
    listed = np.array_equal(new.item_tokens.take(others).flat, layout.listed)
    shown = new.shown_tokens
    return listed and (shown is None or np.array_equal(shown.take(others).flat, layout.in_history))
