"""How far apart two items are, as the metrics ``ild`` and ``ild_embedding`` have it. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.rewards.item_features import group_bits

Distance = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.float64]]
"""Items ``[n]`` and others ``[n, C]`` to their distances ``[n, C]``, 0 to 1."""


def distance_of(catalog: Catalog, by_embedding: bool) -> Distance:
    """By groups, ``1 - |shared| / |groups of either|``, or by embeddings, ``(1 - cos) / 2``.

    An item is 0 apart from itself. One minus either distance is a positive semi-definite kernel.

    Raises:
        UserError: the catalog has no embeddings.
    """
    if not by_embedding:
        bits = group_bits(catalog)
        sizes = np.bitwise_count(bits).sum(axis=1, dtype=np.int32)

        def jaccard(items: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.float64]:
            shared = np.bitwise_count(bits[items][:, None, :] & bits[others]).sum(axis=2, dtype=np.int32)
            either = sizes[items][:, None] + sizes[others] - shared
            return (either - shared) / np.maximum(either, 1)

        return jaccard
    if catalog.embeddings is None:
        raise UserError("a distance by embeddings: the catalog has none (data.columns.embedding)")
    norms = np.linalg.norm(catalog.embeddings, axis=1, keepdims=True)
    vectors = catalog.embeddings / np.maximum(norms, 1e-12)

    def cosine(items: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.float64]:
        return (1 - (vectors[others] @ vectors[items][:, :, None])[:, :, 0].astype(np.float64)) / 2

    return cosine
