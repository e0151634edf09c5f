"""Which codec a catalog gets where the settings leave it open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from blade_dist.catalog.codec import Codec
from blade_dist.settings import CodecSettings

ONE_TOKEN_ITEMS = 20_000
"""Items from which a token for each would make a small model's embedding the largest part of it."""
SEVERAL_LEVELS = 3


@dataclass(frozen=True)
class CodecChoice:
    """How a catalog's items are written, and why so."""

    kind: Literal["title", "semantic_id"]
    levels: int
    """Of semantic IDs."""
    why: dict[str, str]
    """Setting to the reason for its value."""

    @classmethod
    def of(cls, settings: CodecSettings, pretrained: bool, items: int) -> CodecChoice:
        """Of a catalog with so many items; ``pretrained``: whether there is a ``model.path``."""
        kind, why_kind = settings.kind, "as set"
        if kind is None:
            kind = "title" if pretrained else "semantic_id"
            why_kind = f"there is {'' if pretrained else 'no '}model.path"
        levels, why_levels = settings.levels, "as set"
        if levels is None:
            few = items < ONE_TOKEN_ITEMS
            levels = 1 if few else SEVERAL_LEVELS
            why_levels = f"{items} items, {'fewer than' if few else 'at least'} {ONE_TOKEN_ITEMS}"
        why = {"codec.kind": why_kind} | ({"codec.levels": why_levels} if kind == "semantic_id" else {})
        return cls(kind, levels, why)

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
