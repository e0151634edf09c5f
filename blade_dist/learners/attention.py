"""Who sees whom in a packed row ``[prompt, list 1 ... list G]``, for every kind of attention layer.

A token sees the earlier tokens (by position in the sequence ``prompt, list``) of its block's prompt and of its list,
and in a sliding-window layer only those less than a window away. In the block ``p q | a b | c d`` (prompt, two lists):

    p sees p            a sees p q a        c sees p q c
    q sees p q          b sees p q a b      d sees p q c d

The window counts positions, not columns: ``c`` stands two columns after ``a`` and at the same position. On a GPU flex
attention takes the rule and never materialises it; flex attention has no backward on a CPU, so that SDPA gets the mask
there, and only for what follows the first prompt of a row: before that, attention is plainly causal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from blade_dist.learners.packing import MicroBatch

ON_CPU, ON_GPU = "sdpa_after_prompt", "flex_attention"
"""Names of the attention that packed rows take."""

_CAUSAL: ContextVar[int] = ContextVar("causal", default=0)
"""Columns at the start of every row that are one causal sequence."""

PACKABLE = {"full_attention", "sliding_attention"}
"""Kinds of layers that the rule covers."""


def layer_windows(config: Any) -> dict[str, int | None] | int | None:
    """The window of each kind of layer, or (one kind only) of all layers; None is no window.

    Raises:
        ValueError: a kind of layer that can't be packed.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return window
    if others := set(kinds) - PACKABLE:
        raise ValueError(f"layers of kind {', '.join(sorted(others))}")
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}


def attention_mask(batch: MicroBatch, windows: dict[str, int | None] | int | None, flex: bool) -> Any:
    """What the model takes as ``attention_mask`` for a packed micro-batch."""
    make = _block_mask if flex else _dense_mask
    if isinstance(windows, dict):
        return {kind: make(batch, window) for kind, window in windows.items()}
    return make(batch, windows)


def visible(batch: MicroBatch, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The rule, as flex attention's ``mask_mod(row, head, query, key)``; indices of any shapes that broadcast."""
    position, segment, member = batch.position, batch.segment, batch.member

    def rule(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        apart = position[row, query] - position[row, key]
        of_key = member[row, key]
        seen = (segment[row, query] == segment[row, key]) & (apart >= 0)
        seen = seen & ((of_key == 0) | (of_key == member[row, query]))
        return seen if window is None else seen & (apart < window)

    return rule


def _dense_mask(batch: MicroBatch, window: int | None) -> Tensor:
    """bool ``[rows, 1, width, width]``."""
    rows, width = batch.input_ids.shape
    row = torch.arange(rows, device=batch.input_ids.device)[:, None, None]
    place = torch.arange(width, device=batch.input_ids.device)
    return visible(batch, window)(row, row, place[None, :, None], place[None, None, :])[:, None]


def _block_mask(batch: MicroBatch, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    rows, width = batch.input_ids.shape
    return create_block_mask(visible(batch, window), rows, None, width, width, device=batch.input_ids.device)


@contextmanager
def causal_columns(batch: MicroBatch, windows: dict[str, int | None] | int | None) -> Iterator[None]:
    """Within, the first columns of every row that belong to one prompt are attended without a mask (on a CPU).

    A backward that computes the forward again, outside, gets the same result with the mask.
    """
    prompt = (batch.segment == batch.segment[:, :1]) & (batch.member == 0)
    columns = int(prompt.sum(dim=1).min())
    # within the narrowest window every layer is plainly causal; beyond it the mask says what the window hides
    narrowest = min((w for w in (windows.values() if isinstance(windows, dict) else [windows]) if w), default=columns)
    token = _CAUSAL.set(columns if columns <= narrowest else 0)
    try:
        yield
    finally:
        _CAUSAL.reset(token)


def _after_prompt(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """SDPA, in two parts where the rows of ``query`` ``[rows, heads, width, size]`` begin with a causal sequence."""
    columns = _CAUSAL.get()
    if not columns or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    # SDPA without a mask runs its causal kernel, which skips the upper half of the scores and reads no mask
    first = (part[:, :, :columns] for part in (query, key, value))
    before, _ = sdpa_attention_forward(module, *first, None, **given)
    after, _ = sdpa_attention_forward(
        module, query[:, :, columns:], key, value, attention_mask[:, :, columns:], **given
    )
    return torch.cat([before, after], dim=1), None


AttentionInterface.register(ON_CPU, _after_prompt)
AttentionMaskInterface.register(ON_CPU, sdpa_mask)
