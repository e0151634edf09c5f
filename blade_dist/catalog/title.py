"""A list as text: every item is its title."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.tokenizer import encode, load_tokenizer, train_tokenizer
from blade_dist.settings import CodecSettings


def title_tokens(
    catalog: Catalog, settings: CodecSettings, base_tokenizer: Path | None
) -> tuple[PreTrainedTokenizerBase, Ragged]:
    """The tokenizer, and each title's tokens (``I`` rows, int32): encoded alone, so the same in every list.

    A trained tokenizer's titles carry a leading space, so that a word is one token wherever it stands; a pretrained
    one's are written as they are.

    Raises:
        UserError: see :mod:`blade_dist.catalog.tokenizer`.
    """
    titles = list(catalog.titles)
    if base_tokenizer is not None:
        tokenizer = load_tokenizer(base_tokenizer)
    else:
        titles = [f" {title}" for title in titles]
        tokenizer = train_tokenizer([*titles, settings.prompt], settings.vocab_size)
    return tokenizer, Ragged.of(encode(tokenizer, titles))
