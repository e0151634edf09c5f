"""Numbers that tell whether a tensor arrived as it was sent."""

from __future__ import annotations

from collections.abc import Iterable

import torch

Digest = tuple[int, int]
"""Plain and weighted sum of a tensor's bytes, each int64."""

WORD = 8
"""Bytes per word (int64)."""

WIDTH = 1024
"""Most words per row."""


def digests(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Digest]:
    """Digest of each tensor, by name; exact, so that equal bytes give equal numbers on every device.

    Two sums of the bytes as 64-bit words ``w_i``, modulo ``2**64``: ``sum w_i`` changes with any single value,
    ``sum (c * row_i + column_i) w_i`` (``c = 2 * WIDTH + 1``) also where values change places. Integers, because a sum
    of floats depends on its order, which differs between a GPU and a CPU.
    """
    named = list(tensors)
    sums = torch.stack([_sums(tensor) for _, tensor in named]).tolist() if named else []
    return {name: (first, second) for (name, _), (first, second) in zip(named, sums, strict=True)}


def first_difference(sent: dict[str, Digest], arrived: dict[str, Digest]) -> str | None:
    """Name of the first parameter, in the order of sending, that did not arrive as sent; None where all did."""
    return next((name for name, value in sent.items() if arrived.get(name) != value), None)


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """Both sums, int64 ``[2]``, on the tensor's device."""
    words = _words(tensor.detach())
    # the largest power of two that divides the number of words: rows of equal length, two passes, no copy
    grid = words.view(-1, min(len(words) & -len(words), WIDTH) or 1)
    rows, columns = grid.sum(1), grid.sum(0)
    place = torch.arange(1, 1 + max(grid.shape), device=words.device)
    weighted = (rows * place[: len(rows)]).sum() * (2 * WIDTH + 1) + (columns * place[: len(columns)]).sum()
    return torch.stack([rows.sum(), weighted])


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes as int64; a copy where they do not fill words or do not start at one."""
    flat = tensor.reshape(-1).view(torch.uint8)
    if flat.numel() % WORD or flat.storage_offset() % WORD:
        flat = torch.nn.functional.pad(flat, (0, -flat.numel() % WORD)).clone()
    return flat.view(torch.int64)
