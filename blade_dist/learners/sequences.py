"""Prompt + list sequences, cut into micro-batches by a token budget. Pure numpy; torch only for the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from blade_dist.batches import Ragged


@dataclass(frozen=True)
class Sequences:
    """``n`` sequences; the log-probs that matter are those of the list's tokens."""

    prompt: Ragged
    """int32, ``n`` rows."""
    tokens: Ragged
    """int32, ``n`` rows: the list's tokens."""

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.prompt.lengths + self.tokens.lengths


@dataclass(frozen=True)
class MicroBatch:
    """Padded rows and where their list tokens are. All int64 tensors; ``D`` list tokens in total."""

    input_ids: torch.Tensor
    """``[rows, width]``, padded on the right."""
    attention_mask: torch.Tensor
    """``[rows, width]``."""
    row: torch.Tensor
    """``[D]`` row of the position that predicts each list token."""
    column: torch.Tensor
    """``[D]`` column of that position (one before the token)."""
    label: torch.Tensor
    """``[D]`` the list token."""
    flat: torch.Tensor
    """``[D]`` position of the token in ``Sequences.tokens.flat``."""


def microbatches(sequences: Sequences, budget: int) -> list[NDArray[np.int64]]:
    """Rows of each micro-batch: longest first, so that padding is small; ``rows * width <= budget`` (one row at least).

    Every row is in exactly one micro-batch; the sum of the loss over them does not depend on the cut.
    """
    order = np.argsort(-sequences.lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        width = int(sequences.lengths[order[start]])
        rows = max(1, budget // max(width, 1))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def collate(sequences: Sequences, rows: NDArray[np.int64], pad: int) -> MicroBatch:
    """Pads the given rows."""
    prompt, tokens = sequences.prompt.take(rows), sequences.tokens.take(rows)
    lengths = prompt.lengths + tokens.lengths
    width = int(lengths.max())
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    columns = np.arange(width)
    is_prompt = columns < prompt.lengths[:, None]
    is_token = (columns < lengths[:, None]) & ~is_prompt
    ids[is_prompt] = prompt.flat
    ids[is_token] = tokens.flat
    row, column = np.nonzero(is_token)
    offsets = sequences.tokens.offsets
    flat = np.concatenate([np.arange(offsets[r], offsets[r + 1]) for r in rows])
    return MicroBatch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy((columns < lengths[:, None]).astype(np.int64)),
        row=torch.from_numpy(row),
        column=torch.from_numpy(column - 1),
        label=torch.from_numpy(ids[row, column]),
        flat=torch.from_numpy(flat),
    )


def idle_microbatch(pad: int) -> MicroBatch:
    """Two padding tokens whose log-prob nobody wants (``flat`` is empty): runs every module, counts for nothing."""
    zero = torch.zeros(1, dtype=torch.int64)
    ids = torch.full((1, 2), pad, dtype=torch.int64)
    return MicroBatch(ids, torch.ones_like(ids), zero, zero, zero + pad, zero[:0])


def in_step(sequences: Sequences, budget: int, pad: int, count: int) -> Iterator[MicroBatch]:
    """Exactly ``count`` micro-batches: the real ones, then idle ones (ZeRO-2/3 want equal counts on all ranks)."""
    cut = microbatches(sequences, budget) if len(sequences) else []
    for rows in cut:
        yield collate(sequences, rows, pad)
    for _ in range(count - len(cut)):
        yield idle_microbatch(pad)
