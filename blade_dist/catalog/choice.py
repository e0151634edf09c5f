"""Which codec a catalog gets where the settings leave it open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from blade_dist.catalog.codec import Codec
from blade_dist.settings import CodecSettings

ONE_TOKEN_ITEMS = 20_000
"""Items from which a token for each would make a small model's embedding the largest part of it."""
SEVERAL_LEVELS = 3
LEAST_CODES = 32


@dataclass(frozen=True)
class CodecChoice:
    """How a catalog's items are written, and why so."""

    kind: Literal["title", "semantic_id"]
    levels: int
    """Of semantic IDs."""
    codes: int
    """Of each level, where there are several."""
    why: dict[str, str]
    """Setting that was left open to the reason for its value."""
    pretrained: bool = False
    """Whether the model comes with weights."""

    @property
    def one_token(self) -> bool:
        """Whether each item has a token of its own."""
        return self.kind == "semantic_id" and self.levels == 1

    @property
    def marks_histories(self) -> bool:
        """Whether items in a history have other tokens than in a list: where a model is built for one-token items, as
        that takes no token more, and what tells the two apart is learned from the start."""
        return self.one_token and not self.pretrained

    @classmethod
    def of(cls, settings: CodecSettings, pretrained: bool, items: int) -> CodecChoice:
        """Of a catalog with so many items; ``pretrained``: whether there is a ``model.path``."""
        kind, levels, codes = settings.kind, settings.levels, settings.codes
        why = {}
        if kind is None:
            kind = "title" if pretrained else "semantic_id"
            why["codec.kind"] = f"there is {'' if pretrained else 'no '}model.path"
        if levels is None:
            levels = 1 if items < ONE_TOKEN_ITEMS else SEVERAL_LEVELS
            why["codec.levels"] = f"{levels}, for {items:,} items"
        if codes is None:
            # twice as many combinations as items, so that similar ones find room side by side
            codes = max(LEAST_CODES, math.ceil((2 * items) ** (1 / levels)))
            why["codec.codes"] = f"{codes}, for {items:,} items"
        unread = {"codec.levels", "codec.codes"} if kind == "title" else {"codec.codes"} if levels == 1 else set()
        left = {setting: reason for setting, reason in why.items() if setting not in unread}
        return cls(kind, levels, codes, left, pretrained)

    @classmethod
    def like(cls, codec: Codec, why: dict[str, str]) -> CodecChoice:
        """Of items that are written by a codec that is there."""
        if codec.kind == "title":
            return cls("title", 1, 0, why)
        return cls("semantic_id", int(codec.item_tokens.lengths.min()), 0, why)

    def describe(self, codec: Codec) -> dict[str, Any]:
        """For the data card: what was chosen and why; of semantic IDs the codes of each level that some item has, and
        how many items share all of their codes with another one, so that a last code tells them apart."""
        described = {"kind": codec.kind, "why": self.why}
        if self.kind == "title":
            return described
        rows = codec.item_tokens
        first = rows.offsets[:-1, None] + np.arange(self.levels)
        used = [len(np.unique(column)) for column in rows.flat[first].T]
        collisions = int((rows.lengths > self.levels).sum())
        return described | {"levels": self.levels, "codes_in_use": used, "items_that_share_their_codes": collisions}
