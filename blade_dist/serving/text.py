"""Histories and lists as text, for servers that know no catalog: where a text's tokens are those of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.prompt_text import HISTORY
from blade_dist.settings.section import Strict
from blade_dist.store.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TITLE = "{title}"


class ItemText(Strict):
    item: str
    """An item of the history, ``{title}`` being its title; the items stand one after another for ``{history}``."""
    separator: str
    """What ends each item of an answer; blanks around a title are not part of it."""


class Turn(Strict):
    role: Literal["system", "user"]
    """Who says it."""
    content: str
    """What is said; ``{history}`` stands for the items."""


def show_separator(folder: Path, text: str) -> None:
    """Makes the separator a token like others in a checkpoint's tokenizer: servers leave special ones out of answers.

    Args:
        folder: with ``tokenizer.json`` and ``tokenizer_config.json``; another kind of tokenizer stays as it is.
        text: the separator's.
    """
    files = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    if not all(file.is_file() for file in files):
        return
    backend, config = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    for token in [*backend.get("added_tokens", []), *config.get("added_tokens_decoder", {}).values()]:
        if token["content"] == text:
            token["special"] = False
    for name in ("extra_special_tokens", "additional_special_tokens"):
        if isinstance(config.get(name), list):
            config[name] = [token for token in config[name] if token != text]
    for file, content in zip(files, (backend, config), strict=True):
        write_json(file, content)


def item_text(
    tokenizer: PreTrainedTokenizerBase, codec: Codec, catalog: Catalog, prompt: str, histories: Ragged
) -> ItemText | None:
    """How an item is written; None where no text gives the tokens of the training, so that tokens must be sent.

    Args:
        tokenizer: the server's.
        codec: the run's.
        catalog: the items, with their titles.
        prompt: the whole text of a prompt, see :meth:`PromptText.sent`.
        histories: int32 rows of items, to try it on.
    """
    if codec.kind != "title" or codec.separator is None:
        return None
    separator = tokenizer.decode([codec.separator], skip_special_tokens=True)
    wanted = codec.encode_prompts(histories)
    for item in (f" {TITLE}{separator}", f"{TITLE}{separator}"):
        shown = _shown(item, catalog, histories)
        encoded: list[list[int]] = tokenizer([prompt.replace(HISTORY, text) for text in shown])["input_ids"]
        if separator and all(row == wanted[number].tolist() for number, row in enumerate(encoded)):
            return ItemText(item=item, separator=separator)
    return None


def sent_turns(
    tokenizer: PreTrainedTokenizerBase,
    codec: Codec,
    catalog: Catalog,
    turns: list[Turn],
    text: ItemText | None,
    histories: Ragged,
) -> list[Turn] | None:
    """The turns, where a chat server's template makes the tokens of the training of them; else None.

    Args:
        tokenizer: the server's.
        codec: the run's.
        catalog: the items, with their titles.
        turns: before the answer.
        text: how an item is written.
        histories: int32 rows of items, to try it on.
    """
    if text is None or not turns:
        return None
    wanted = codec.encode_prompts(histories)
    for row, shown in enumerate(_shown(text.item, catalog, histories)):
        said = [turn.model_dump() | {"content": turn.content.replace(HISTORY, shown)} for turn in turns]
        tokens = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        if list(tokens) != wanted[row].tolist():
            return None
    return turns


def _shown(item: str, catalog: Catalog, histories: Ragged) -> list[str]:
    """The text of each history; ``item``: how an item is written."""
    return [
        "".join(item.replace(TITLE, catalog.titles[one]) for one in histories[row]) for row in range(len(histories))
    ]
