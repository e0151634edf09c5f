"""The raw items table to a catalog."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError


def usable_items(items: pa.Table) -> tuple[pa.Table, int]:
    """Items with an id and a title, each once.

    Args:
        items: see :class:`blade_dist.data.rawlog.RawLog`.

    Returns:
        The table, in the file's order, the first of equal ids kept; how many rows repeated an id.

    Raises:
        UserError: no item with a title.
    """
    there = pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(items.column("title"))), 0), False)
    named = pc.fill_null(pc.greater(pc.utf8_length(items.column("item")), 0), False)
    kept = items.filter(pc.and_(there, named))
    if not len(kept):
        raise UserError(f"data.items: none of the {len(items)} items has a title")
    codes = kept.column("item").combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.sort(np.unique(codes, return_index=True)[1])
    return kept.take(pa.array(first)), len(kept) - len(first)


def build_catalog(items: pa.Table, popularity: NDArray[np.int64]) -> Catalog:
    """The catalog of the items that are left, in the order of the table.

    Raises:
        UserError: embeddings that are missing or of different lengths.
    """
    embeddings = None
    if "embedding" in items.column_names:
        vectors = items.column("embedding")
        width = pc.list_value_length(vectors)
        sizes = pc.unique(width).to_pylist()
        if len(sizes) != 1 or not sizes[0]:
            odd = pc.index(width, sizes[-1]).as_py()
            raise UserError(
                f"item {items.column('item')[odd].as_py()!r}: its embedding has {sizes[-1] or 0} numbers where the "
                f"first item's has {sizes[0] or 0} (data.columns.embedding); every item needs one of the same length"
            )
        embeddings = pc.list_flatten(vectors).to_numpy().reshape(len(items), sizes[0])
    return Catalog.build(
        item_ids=items.column("item").to_pylist(),
        titles=items.column("title").to_pylist(),
        groups=[[name for name in row or [] if name] for row in items.column("groups").to_pylist()],
        popularity=popularity,
        embeddings=embeddings,
    )
