"""A list as semantic IDs: every item is one token of its own, or a few so that similar items share their first ones.

Residual k-means: level 1 clusters the items' features, each next level clusters what the levels before left over
(RQ-VAE's quantiser without the network; Rajput et al., "Recommender Systems with Generative Retrieval", 2023).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.tokenizer import load_tokenizer, train_tokenizer
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings

MAX_LEVELS = 25
"""Levels have one letter each; the last one is the code that tells equal items apart."""
_SVD_SIZE = 32
_EXACT_ITEMS = 20_000


def semantic_tokens(
    catalog: Catalog, settings: CodecSettings, levels: int, base_tokenizer: Path | None, seed: int
) -> tuple[PreTrainedTokenizerBase, Ragged]:
    """The tokenizer with the code tokens (``<a_0>``, ``<b_3>``, ...) added, and each item's codes.

    Returns:
        The tokenizer; ``I`` rows of ``levels`` token ids (int32), one more where items share all codes. No row begins
        another: each has as many tokens as all that share its first ``levels`` ones.

    Raises:
        UserError: too many levels; see :mod:`blade_dist.catalog.tokenizer`.
    """
    if levels > MAX_LEVELS:
        raise UserError(f"codec.levels: {levels} is too many; at most {MAX_LEVELS}")
    if levels == 1:
        codes = np.arange(len(catalog))[:, None]
    else:
        codes = residual_codes(item_features(catalog, seed), levels, settings.codes, seed)
    last = _last_codes(codes)
    columns = [*codes.T, last]
    if base_tokenizer is not None:
        tokenizer = load_tokenizer(base_tokenizer)
    else:
        tokenizer = train_tokenizer([settings.prompt], settings.vocab_size)
    ids = np.stack([_code_tokens(tokenizer, level, column) for level, column in enumerate(columns)], axis=1)
    used = ids >= 0
    return tokenizer, Ragged(ids[used].astype(np.int32), offsets_of(used.sum(axis=1)))


def item_features(catalog: Catalog, seed: int) -> NDArray[np.float32]:
    """float32 ``[I, D]``: the catalog's embeddings, or else its groups beside an SVD of the titles' TF-IDF."""
    if catalog.embeddings is not None:
        return catalog.embeddings
    parts = [catalog.group_matrix()]
    words = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True).fit_transform(catalog.titles)
    size = min(_SVD_SIZE, words.shape[1] - 1)
    if size > 0:
        parts.append(TruncatedSVD(size, random_state=seed).fit_transform(words).astype(np.float32))
    features = np.concatenate(parts, axis=1)
    return features if features.shape[1] else np.zeros((len(catalog), 1), dtype=np.float32)


def residual_codes(features: NDArray[np.float32], levels: int, codes: int, seed: int) -> NDArray[np.int64]:
    """int64 ``[I, levels]`` with values below ``codes``; the same for the same seed."""
    residual = np.array(features, dtype=np.float32)
    columns = []
    for level in range(levels):
        labels, centers = _clusters(residual, codes, seed + level)
        columns.append(labels)
        residual -= centers[labels]
    return np.stack(columns, axis=1)


def _clusters(points: NDArray[np.float32], codes: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each point's cluster, int64 ``[I]``, and the clusters' centers. With codes enough, each distinct point is a
    center, which k-means would arrive at after many minutes."""
    distinct, labels = np.unique(points, axis=0, return_inverse=True)
    if len(distinct) <= codes:
        return labels.reshape(-1).astype(np.int64), distinct
    kind = KMeans if len(points) <= _EXACT_ITEMS else MiniBatchKMeans
    model = kind(codes, random_state=seed, n_init=2)
    labels = model.fit_predict(points)
    return labels.astype(np.int64), model.cluster_centers_.astype(np.float32)


def _last_codes(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[I]``: the item's number among those with the same codes, in catalog order; -1 where it is alone."""
    _, same, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    same = same.reshape(-1)
    order = np.argsort(same, kind="stable")
    number = np.empty(len(codes), dtype=np.int64)
    number[order] = ranges(0, count)
    return np.where(count[same] > 1, number, -1)


def _code_tokens(tokenizer: PreTrainedTokenizerBase, level: int, column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Adds the level's code tokens and returns ``[I]`` token ids, -1 where the item has no code of this level."""
    names = [f"<{chr(ord('a') + level)}_{code}>" for code in range(int(column.max()) + 1)]
    if not names:
        return np.full(len(column), -1, dtype=np.int64)
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    ids = np.array([*tokenizer.convert_tokens_to_ids(names), -1], dtype=np.int64)
    return ids[column]
