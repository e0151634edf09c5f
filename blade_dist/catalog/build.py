"""A catalog's codec: which tokens write each item."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.prompt_text import PromptText, said_of_template
from blade_dist.catalog.semantic_id import semantic_tokens, shown_tokens
from blade_dist.catalog.title import title_tokens
from blade_dist.catalog.tokenizer import EOS, SEPARATOR, encode, encode_prompt, special_in_prompt, special_token
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings


@dataclass(frozen=True)
class Built:
    """A codec, and what it changed."""

    codec: Codec
    catalog: Catalog
    """With the titles as they are written: cut, or numbered where the tokenizer makes two alike."""
    remarks: list[str]
    """What was changed, and how special tokens of the prompt are read."""


def build_codec(
    catalog: Catalog,
    settings: CodecSettings,
    choice: CodecChoice,
    base_tokenizer: Path | None,
    seed: int,
    max_title_tokens: int | None = None,
) -> Built:
    """The codec of a catalog.

    Args:
        catalog: the items.
        settings: the ``codec`` section.
        choice: of its kind and levels.
        base_tokenizer: a Hugging Face tokenizer folder; None trains a byte-level BPE on the titles.
        seed: of the semantic IDs' k-means.
        max_title_tokens: longer titles are cut, where titles are written.

    Raises:
        UserError: a prompt that is none (see :meth:`PromptText.of`), no readable tokenizer, items without tokens or
            with equal ones, or a title that holds the text of a separator.
    """
    remarks: list[str] = []
    if choice.kind == "title":
        written = title_tokens(catalog, settings, base_tokenizer, max_title_tokens)
        tokenizer, item_tokens, remarks = written.tokenizer, written.tokens, written.remarks
        catalog = replace(catalog, titles=np.array(written.titles, dtype=object))
    else:
        tokenizer, item_tokens = semantic_tokens(catalog, settings, choice, base_tokenizer, seed)
    if tokenizer.eos_token_id is None:
        special_token(tokenizer, EOS)
        tokenizer.eos_token = EOS
    text = PromptText.of(tokenizer, settings)
    end = text.end_token(tokenizer)
    # codes are prefix-free, titles are not
    titles = choice.kind == "title"
    separator = _separator(tokenizer, item_tokens, end, trained=base_tokenizer is None) if titles else None
    check_items(catalog, item_tokens, {separator, end})
    codec = Codec(
        kind=choice.kind,
        source=tokenizer,
        item_tokens=item_tokens,
        separator=separator,
        end=end,
        pad=end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
        prefix=np.array(text.prefix(tokenizer), dtype=np.int32),
        suffix=np.array(encode_prompt(tokenizer, text.after), dtype=np.int32),
        shown_tokens=shown_tokens(tokenizer, len(catalog)) if choice.marks_histories else None,
    )
    for setting, said in (("codec.system", settings.system or ""), ("codec.prompt", settings.prompt)):
        remarks += special_in_prompt(tokenizer, said, setting)
    remarks += said_of_template(tokenizer, settings)
    if titles and base_tokenizer is not None and (apart := text.difference(codec, catalog.titles.tolist())):
        remarks.append(apart)
    return Built(codec, catalog, remarks)


def _separator(tokenizer: PreTrainedTokenizerBase, item_tokens: Ragged, end: int, trained: bool) -> int:
    """``<sep>`` of a trained tokenizer; else the newline if it is one token that no item holds, else a new token."""
    newline = encode(tokenizer, ["\n"])[0]
    if not trained and len(newline) == 1 and newline[0] != end and newline[0] not in item_tokens.flat:
        return int(newline[0])
    return special_token(tokenizer, SEPARATOR)


def check_items(catalog: Catalog, item_tokens: Ragged, reserved: set[int | None]) -> None:
    """Raises UserError for items without tokens, with a reserved one, or with those of another item."""
    first: dict[bytes, int] = {}
    empty, special, alike = [], [], []
    for item in range(len(catalog)):
        tokens = item_tokens[item]
        if not len(tokens):
            empty.append(item)
        elif reserved.intersection(tokens.tolist()):
            special.append(item)
        elif (other := first.setdefault(tokens.tobytes(), item)) != item:
            alike.append((item, other))
    name = {
        item: f"item {catalog.item_ids[item]!r} ({catalog.titles[item]!a})" for item in _named(empty, special, alike)
    }
    if empty:
        raise UserError(f"the tokenizer makes no token of {len(empty)} titles: {name[empty[0]]}; give it another title")
    if special:
        raise UserError(f"{len(special)} titles hold the text of a special token: {name[special[0]]}; change the title")
    if alike:
        item, other = alike[0]
        raise UserError(
            f"the tokenizer writes {len(alike)} titles with the same tokens as another one, even with a number behind "
            f"them: {name[item]} as {name[other]}; give them other titles or set codec.kind=semantic_id"
        )


def _named(empty: list[int], special: list[int], alike: list[tuple[int, int]]) -> list[int]:
    """The items that a message names."""
    return [*empty[:1], *special[:1], *(alike[0] if alike else ())]
