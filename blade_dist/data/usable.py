"""The raw items table to a catalog."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.data.remarks import Remarks, shown
from blade_dist.data.titles import clean_titles, plain_html
from blade_dist.errors import UserError
from blade_dist.settings.inputs import NULL_WORDS

NO_GROUP = {*NULL_WORDS, "(no genres listed)"}
"""Words for no group."""


def usable_items(items: pa.Table, remarks: Remarks) -> tuple[pa.Table, int]:
    """Items with an id and a title, each once, with titles that are clean (:mod:`blade_dist.data.titles`).

    Where an item has several rows, its first title counts, and the groups of all of them are its groups.

    Args:
        items: see :class:`blade_dist.data.rawlog.RawLog`.
        remarks: what is repaired.

    Returns:
        The table, in the file's order, the first of equal ids kept; how many rows repeated an id.

    Raises:
        UserError: no item with a title.
    """
    if not len(items):
        raise UserError("the file of items (data.items, or beside data.path) has a first line alone; is it whole?")
    items = items.set_column(1, "title", clean_titles(items.column("title"), remarks))
    kept = items.filter(pc.and_(items.column("title").is_valid(), items.column("item").is_valid()))
    if not len(kept):
        raise UserError(f"data.items: none of the {len(items)} items has a title (data.columns.title)")
    codes = kept.column("item").combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.unique(codes, return_index=True)[1]  # of each code, which are given in the order of the rows
    if len(first) < len(kept):
        _say_other_titles(kept, codes, first, remarks)
        kept = _with_all_groups(kept, codes, first, remarks)
    return kept.take(pa.array(first)), len(codes) - len(first)


def _say_other_titles(items: pa.Table, codes: NDArray[np.int32], first: NDArray[np.int64], remarks: Remarks) -> None:
    """Says where an item has several titles; ``first``: row of each code."""
    titles = items.column("title").combine_chunks().dictionary_encode().indices.to_numpy()
    other = np.flatnonzero(titles != titles[first[codes]])
    if len(other):
        row = int(other[0])
        one, two = (shown(items.column("title")[int(place)].as_py()) for place in (first[codes[row]], row))
        remarks.hint(
            f"{len(np.unique(codes[other])):,} items stand there again with another title, and the first one counts: "
            f"item {items.column('item')[row].as_py()!r} is {one}, later {two}"
        )


def _with_all_groups(items: pa.Table, codes: NDArray[np.int32], first: NDArray[np.int64], remarks: Remarks) -> pa.Table:
    """With the groups of all rows of an item in its first row; ``first``: row of each code."""
    joined = pc.fill_null(pc.binary_join(items.column("groups").combine_chunks(), "\x1f"), "")
    texts = joined.dictionary_encode().indices.to_numpy()
    differ = np.unique(codes[texts != texts[first[codes]]])
    if not len(differ):
        return items
    groups = items.column("groups").to_pylist()
    together: dict[int, list[str | None]] = {row: [] for row in first[differ].tolist()}
    for row in np.flatnonzero(np.isin(codes, differ)).tolist():
        together[int(first[codes[row]])] += groups[row] or []
    for row, names in together.items():
        groups[row] = list(dict.fromkeys(names))
    row = int(first[differ[0]])
    example = f"item {items.column('item')[row].as_py()!r} has {', '.join(map(str, groups[row][:4]))}"
    remarks.repair("items with other groups in a later row, put together", len(differ), example)
    place = items.schema.get_field_index("groups")
    return items.set_column(place, "groups", pa.array(groups, pa.list_(pa.string())))


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


def say_alike_groups(names: Sequence[str], remarks: Remarks) -> None:
    """Says where groups differ by case alone."""
    first: dict[str, str] = {}
    pairs = [(one, name) for name in sorted(names) if (one := first.setdefault(name.casefold(), name)) != name]
    if pairs:
        alike = " and ".join(map(shown, pairs[0]))
        remarks.hint(f"{len(pairs)} groups differ from another one by case alone, and count as others: {alike}")


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
