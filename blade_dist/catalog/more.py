"""Tokens for the catalog of the day, by a codec that was made for an earlier one. No item changes its tokens, but one
that is written as its title and has another title now."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.build import check_items
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.layout import Layout
from blade_dist.catalog.placed import placed_tokens
from blade_dist.catalog.renewed import Renewed, by_age
from blade_dist.catalog.title import blank_before, more_title_tokens
from blade_dist.catalog.words import WordFeatures, item_texts
from blade_dist.errors import UserError


@dataclass(frozen=True, eq=False)
class Written:
    """A codec of the day."""

    catalog: Catalog
    """With the titles as they are written."""
    codec: Codec
    """Of a vocabulary that grows, without the new items yet."""
    layout: Layout | None
    """How the vocabulary grows; None where it stays."""
    remarks: list[str]


def write_items(codec: Codec, before: Catalog, day: Renewed, trained: int, most: int | None, seed: int) -> Written:
    """The codec of the day's catalog.

    Args:
        codec: of the catalog before.
        before: that catalog.
        day: the catalog of the day.
        trained: items that the policy was trained with, the first of ``before``.
        most: tokens to which training cut titles; None: it cut none.
        seed: of the features of words.

    Raises:
        UserError: titles that can't be told apart by the tokenizer; more new items than a quantiser has codes for.
    """
    if codec.kind == "title":
        return _as_titles(codec, before, day, most)
    if not day.new or (codec.item_tokens.lengths == 1).all():
        return Written(day.catalog, codec, Layout.of(codec, day.new) if day.new else None, [])
    known, new = day_features(before, day, trained, seed)
    tokens = Ragged.concat([codec.item_tokens, placed_tokens(codec.item_tokens, known, new)])
    return Written(day.catalog, replace(codec, item_tokens=tokens), None, [])


def with_new_tokens(written: Written, folder: Path) -> Codec:
    """The day's codec with all its items; where its vocabulary grows, ``folder`` gets the tokenizer.

    Raises:
        UserError: a tokenizer that can't grow.
    """
    layout, codec = written.layout, written.codec
    if layout is None:
        return codec
    assert isinstance(codec.source, Path)
    shutil.copytree(codec.source, folder)
    layout.grow_tokenizer(folder)
    grown = layout.codec(codec, folder)
    if (found := grown.vocabulary) != layout.size:
        raise UserError(
            f"{codec.source}: this tokenizer can't grow: {found} tokens instead of {layout.size}; train anew"
        )
    return grown


def day_features(
    before: Catalog, day: Renewed, trained: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of the items that there were, ``[I, D]``, and of the new ones, ``[n, D]``: of the words that the trained
    ones have."""
    texts = item_texts(before)
    words, known = WordFeatures.fit(texts[:trained], seed)
    return np.concatenate([known, words.of(texts[trained:])]), words.of(item_texts(day.catalog, day.known))


def _as_titles(codec: Codec, before: Catalog, day: Renewed, most: int | None) -> Written:
    codec = replace(codec, source=codec.tokenizer)  # loaded once, for all that are made of it
    order = by_age(day.known, day.renamed, len(day.catalog))
    kept = day.known - len(day.renamed)
    titles, item_ids = (list(values[order]) for values in (day.catalog.titles, day.catalog.item_ids))
    own = replace(codec, item_tokens=codec.item_tokens.take(order[:kept]))
    blank = blank_before(codec, before.titles.tolist())
    made = more_title_tokens(own, titles, item_ids, blank, most)
    row = np.argsort(order)
    catalog = replace(day.catalog, titles=np.array(made.titles, dtype=object)[row])
    tokens = made.tokens.take(row)
    check_items(catalog, tokens, {codec.separator, codec.end})
    return Written(catalog, replace(codec, item_tokens=tokens), None, made.remarks)
