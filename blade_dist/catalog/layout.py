"""A vocabulary that grows by tokens for new items. Pure.

Tokens that a list may hold come first and the items' tokens in a history last, as engines drop the logits beyond a
list's largest token. So new tokens of lists stand before those of histories, which move up::

    before    words   <a_0> <a_1>                <shown_0> <shown_1>
    after     words   <a_0> <a_1>  <a_2> <a_3>   <shown_0> <shown_1>  <shown_2> <shown_3>
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.errors import UserError
from blade_dist.store.files import read_json, write_text

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a grown vocabulary stand."""

    at: int
    """The first new token of a list: tokens before it keep their numbers."""
    known: int
    """Items that have tokens."""
    new: int
    """Items that get some."""
    shown: bool
    """Whether items have tokens of their own in a history."""

    @classmethod
    def of(cls, codec: Codec, new: int) -> Layout:
        """For so many new items beside those of a codec with a token for each item."""
        known = len(codec.item_tokens)
        return cls(
            codec.vocabulary - (known if codec.shown_tokens is not None else 0),
            known,
            new,
            codec.shown_tokens is not None,
        )

    @property
    def size(self) -> int:
        """Tokens of the grown vocabulary."""
        return self.at + self.new + (self.known + self.new if self.shown else 0)

    @property
    def listed(self) -> NDArray[np.int32]:
        """``[new]`` the new items' tokens in a list."""
        return np.arange(self.at, self.at + self.new, dtype=np.int32)

    @property
    def in_history(self) -> NDArray[np.int32]:
        """``[new]`` the new items' tokens in a history, where those are others."""
        return np.arange(self.size - self.new, self.size, dtype=np.int32)

    def moved(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """The numbers that tokens have in the grown vocabulary."""
        return np.where(tokens >= self.at, tokens + self.new, tokens).astype(np.int32) if self.shown else tokens

    def codec(self, codec: Codec, tokenizer: Path) -> Codec:
        """The grown codec; ``tokenizer``: folder of the grown tokenizer."""
        shown = None
        if codec.shown_tokens is not None:
            shown = _one_each(np.concatenate([self.moved(codec.shown_tokens.flat), self.in_history]))
        return replace(
            codec,
            source=tokenizer,
            item_tokens=_one_each(np.concatenate([codec.item_tokens.flat, self.listed])),
            shown_tokens=shown,
        )

    def grow_tokenizer(self, folder: Path) -> None:
        """Adds the new tokens to a tokenizer that is saved in ``folder``.

        Raises:
            UserError: another kind of tokenizer than :data:`TOKENIZER` describes.
        """
        if (backend := read_json(folder / TOKENIZER)) is None:
            raise UserError(f"{folder}: it has no {TOKENIZER}, and only such a tokenizer can grow; train anew")
        names = [f"<a_{item}>" for item in range(self.known, self.known + self.new)]
        added = [_token(name, number) for name, number in zip(names, self.listed.tolist(), strict=True)]
        if self.shown:
            shown = [f"<shown_{item}>" for item in range(self.known, self.known + self.new)]
            added += [_token(name, number) for name, number in zip(shown, self.in_history.tolist(), strict=True)]
        for token in backend["added_tokens"]:
            token["id"] += self.new if self.shown and token["id"] >= self.at else 0
        backend["added_tokens"] = sorted(backend["added_tokens"] + added, key=lambda token: token["id"])
        write_text(folder / TOKENIZER, json.dumps(backend, ensure_ascii=False))  # as one line: it may be long


def _token(name: str, number: int) -> dict[str, Any]:
    """As the tokenizers library writes an added token."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": name, **flags}


def _one_each(tokens: NDArray[np.int32]) -> Ragged:
    return Ragged(tokens, np.arange(len(tokens) + 1))
