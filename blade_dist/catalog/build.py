"""A catalog's codec: which tokens write each item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.semantic_id import semantic_tokens
from blade_dist.catalog.title import title_tokens
from blade_dist.catalog.tokenizer import EOS, SEPARATOR, encode, opening, special_token
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings


def build_codec(
    catalog: Catalog, settings: CodecSettings, choice: CodecChoice, base_tokenizer: Path | None, seed: int
) -> Codec:
    """The codec of a catalog.

    Args:
        catalog: the items.
        settings: the ``codec`` section.
        choice: of its kind and levels.
        base_tokenizer: a Hugging Face tokenizer folder; None trains a byte-level BPE on the titles.
        seed: of the semantic IDs' k-means.

    Raises:
        UserError: a prompt without exactly one ``{history}``, no readable tokenizer, an item without tokens, two items
            with equal tokens, or a title that holds the text of a separator.
    """
    texts = settings.prompt.split("{history}")
    if len(texts) != 2:
        raise UserError(f"codec.prompt: {{history}} must stand in it once, not {len(texts) - 1} times")
    if choice.kind == "title":
        tokenizer, item_tokens = title_tokens(catalog, settings, base_tokenizer)
    else:
        tokenizer, item_tokens = semantic_tokens(catalog, settings, choice, base_tokenizer, seed)
    if tokenizer.eos_token_id is None:
        special_token(tokenizer, EOS)
        tokenizer.eos_token = EOS
    end = int(tokenizer.eos_token_id)
    # codes are prefix-free, titles are not
    titles = choice.kind == "title"
    separator = _separator(tokenizer, item_tokens, end, trained=base_tokenizer is None) if titles else None
    _check_items(catalog, item_tokens, {separator, end})
    prefix, suffix = (encode(tokenizer, [text])[0] if text else [] for text in texts)
    return Codec(
        kind=choice.kind,
        source=tokenizer,
        item_tokens=item_tokens,
        separator=separator,
        end=end,
        pad=end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
        prefix=np.array(opening(tokenizer) + prefix, dtype=np.int32),
        suffix=np.array(suffix, dtype=np.int32),
    )


def _separator(tokenizer: PreTrainedTokenizerBase, item_tokens: Ragged, end: int, trained: bool) -> int:
    """``<sep>`` of a trained tokenizer; else the newline if it is one token that no item holds, else a new token."""
    newline = encode(tokenizer, ["\n"])[0]
    if not trained and len(newline) == 1 and newline[0] != end and newline[0] not in item_tokens.flat:
        return int(newline[0])
    return special_token(tokenizer, SEPARATOR)


def _check_items(catalog: Catalog, item_tokens: Ragged, reserved: set[int | None]) -> None:
    first: dict[bytes, int] = {}
    for item in range(len(catalog)):
        tokens = item_tokens[item]
        name = f"item {catalog.item_ids[item]!r} ({catalog.titles[item]!r})"
        if not len(tokens):
            raise UserError(f"{name}: the tokenizer makes no token of its title; give it another title")
        if reserved.intersection(tokens.tolist()):
            raise UserError(f"{name}: its title holds the text of a special token; give it another title")
        other = first.setdefault(tokens.tobytes(), item)
        if other != item:
            raise UserError(
                f"{name} and item {catalog.item_ids[other]!r} ({catalog.titles[other]!r}): the tokenizer writes both "
                "with the same tokens; give one of them another title"
            )
