"""One user's prompt and fine-tuning row as the model reads them: text, tokens, and where the loss is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.codec import Codec
from blade_dist.training.windows import training_rows

TEXT = "text"
"""Name of a part that is no item."""


@dataclass(frozen=True)
class Part:
    """Tokens that belong together."""

    what: str
    """An item's id, or ``text`` of the prompt."""
    tokens: NDArray[np.int32]
    loss: bool
    """Whether the model is trained to write them."""


def prompt_parts(codec: Codec, history: NDArray[np.int32], ids: Sequence[str]) -> list[Part]:
    """What an engine is given; ``history``: catalog indices, oldest first; ``ids``: of the catalog's items."""
    tokens = codec.encode_prompt(history)
    return list(_cut(codec, history, len(history), ids, tokens, np.zeros(len(tokens), dtype=np.bool_)))


def row_parts(codec: Codec, items: NDArray[np.int32], split: int, repeats: bool, ids: Sequence[str]) -> list[Part]:
    """What fine-tuning reads of a sequence. Where items have other tokens in a list, these are what is predicted.

    Args:
        codec: writes items as tokens.
        items: catalog indices, two or more.
        split: items before the prompt's second text; fine-tuning draws it anew for every pass.
        repeats: whether an item that the row has shown before counts.
        ids: of the catalog's items.
    """
    row = training_rows(codec, Ragged.of([items]), np.array([split]), repeats)
    tokens = np.concatenate([row.prompt.flat, row.tokens.flat])
    loss = np.concatenate([np.zeros(len(row.prompt.flat), dtype=np.bool_), row.decision])
    return list(_cut(codec, items, split, ids, tokens, loss))


def _cut(
    codec: Codec,
    items: NDArray[np.int32],
    split: int,
    ids: Sequence[str],
    tokens: NDArray[np.int32],
    loss: NDArray[np.bool_],
) -> Iterator[Part]:
    """``tokens`` cut into the prompt's texts and the items; the second text stands after ``split`` items."""
    blocks = [(str(ids[item]), len(codec.shown_blocks[item])) for item in items]
    blocks.insert(split, (TEXT, len(codec.suffix)))
    start = 0
    for what, size in [(TEXT, len(codec.prefix)), *blocks]:
        if size:
            yield Part(what, tokens[start : start + size], bool(loss[start : start + size].any()))
        start += size
