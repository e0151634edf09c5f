"""A list as semantic IDs: every item is one token of its own, or a few so that similar items share their first ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged, offsets_of, ranges
from blade_dist.catalog.balanced import residual_codes
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.embed import embed_items
from blade_dist.catalog.tokenizer import load_base, train_tokenizer
from blade_dist.catalog.words import WordFeatures, item_texts
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings

MAX_LEVELS = 25
"""Levels have one letter each; the last one is the code that tells equal items apart."""


def semantic_tokens(
    catalog: Catalog, settings: CodecSettings, choice: CodecChoice, base_tokenizer: Path | None, seed: int
) -> tuple[PreTrainedTokenizerBase, Ragged]:
    """The tokenizer with the code tokens (``<a_0>``, ``<b_3>``, ...) added, and each item's codes.

    Returns:
        The tokenizer; ``I`` rows of a token id (int32) per level, one more where items share all codes. No row begins
        another: each has as many tokens as all that share its first ones.

    Raises:
        UserError: too many levels; an embedder that can't be read; see :mod:`blade_dist.catalog.tokenizer`.
    """
    levels = choice.levels
    if levels > MAX_LEVELS:
        raise UserError(f"codec.levels: {levels} is too many; at most {MAX_LEVELS}")
    if levels == 1:
        codes = np.arange(len(catalog))[:, None]
    else:
        codes = residual_codes(item_features(catalog, settings.embedder, seed), levels, choice.codes, seed)
    last = _last_codes(codes)
    columns = [*codes.T, last]
    if base_tokenizer is not None:
        tokenizer = load_base(base_tokenizer)
    else:
        tokenizer = train_tokenizer([settings.prompt], settings.vocab_size)
    ids = np.stack([_code_tokens(tokenizer, level, column) for level, column in enumerate(columns)], axis=1)
    used = ids >= 0
    return tokenizer, Ragged(ids[used].astype(np.int32), offsets_of(used.sum(axis=1)))


def shown_tokens(tokenizer: PreTrainedTokenizerBase, items: int) -> Ragged:
    """Adds a token for each item in a history (``<shown_0>``, ``<shown_1>``, ...), after all others: ``I`` rows."""
    names = [f"<shown_{item}>" for item in range(items)]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    return Ragged(np.array(tokenizer.convert_tokens_to_ids(names), dtype=np.int32), np.arange(items + 1))


def item_features(catalog: Catalog, embedder: Path | None, seed: int) -> NDArray[np.float32]:
    """float32 ``[I, D]``: by the embedder, or the catalog's embeddings, or the words of titles and groups (see
    :class:`~blade_dist.catalog.words.WordFeatures`)."""
    if embedder is not None:
        return embed_items(catalog, embedder)
    if catalog.embeddings is not None:
        return catalog.embeddings
    return WordFeatures.fit(item_texts(catalog), seed)[1]


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
