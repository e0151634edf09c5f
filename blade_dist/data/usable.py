"""The raw items table to a catalog."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.data.remarks import Remarks
from blade_dist.data.titles import clean_titles, plain_html
from blade_dist.errors import UserError
from blade_dist.settings.inputs import NULL_WORDS

NO_GROUP = {*NULL_WORDS, "(no genres listed)"}
"""Words for no group."""


def usable_items(items: pa.Table, remarks: Remarks) -> tuple[pa.Table, int]:
    """Items with an id and a title, each once, with titles that are clean (:mod:`blade_dist.data.titles`).

    Args:
        items: see :class:`blade_dist.data.rawlog.RawLog`.
        remarks: what is repaired.

    Returns:
        The table, in the file's order, the first of equal ids kept; how many rows repeated an id.

    Raises:
        UserError: no item with a title.
    """
    if not len(items):
        raise UserError("no item is there: the file of items has a first line alone; is it whole?")
    items = items.set_column(1, "title", clean_titles(items.column("title"), remarks))
    kept = items.filter(pc.and_(items.column("title").is_valid(), items.column("item").is_valid()))
    if not len(kept):
        raise UserError(f"data.items: none of the {len(items)} items has a title (data.columns.title)")
    codes = kept.column("item").combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.sort(np.unique(codes, return_index=True)[1])
    return kept.take(pa.array(first)), len(kept) - len(first)


def build_catalog(items: pa.Table, popularity: NDArray[np.int64]) -> Catalog:
    """The catalog of the items that are left, in the order of the table.

    Raises:
        UserError: embeddings that are missing, of different lengths or not finite; names the first such item.
    """
    return Catalog.build(
        item_ids=items.column("item").to_pylist(),
        titles=items.column("title").to_pylist(),
        groups=[group_names(row) for row in items.column("groups").to_pylist()],
        popularity=popularity,
        embeddings=_embeddings(items) if "embedding" in items.column_names else None,
    )


def group_names(row: list[str | None] | None) -> list[str]:
    """Of groups, without white space around them (" Crime" of "Drama, Crime" is the group of "Crime") and HTML; a word
    for nothing is none."""
    plain = (" ".join(plain_html(name or "").split()) for name in row or [])
    return [name for name in plain if name and name not in NO_GROUP]


def _embeddings(items: pa.Table) -> NDArray[np.float32]:
    """``[I, D]``; D is the length of the first embedding that is there."""
    vectors = items.column("embedding")
    sizes = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy()
    there = np.flatnonzero(sizes)
    if not len(there):
        raise UserError(f"data.columns.embedding: none of the {len(items)} items has an embedding")
    given, names = there[0], items.column("item")
    odd = np.flatnonzero(sizes != sizes[given])
    if len(odd):
        raise UserError(
            f"data.columns.embedding: item {names[odd[0]].as_py()!r} has an embedding of {sizes[odd[0]]} numbers, and "
            f"item {names[given].as_py()!r} one of {sizes[given]}; every item needs one of the same length"
        )
    numbers = pc.list_flatten(vectors).to_numpy(zero_copy_only=False).reshape(len(items), sizes[given])
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise UserError(
            f"data.columns.embedding: {len(bad)} of {len(items)} items have an embedding with what is no finite "
            f"number, the first is {names[bad[0]].as_py()!r}"
        )
    return numbers
