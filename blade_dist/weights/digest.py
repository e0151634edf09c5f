"""A number that tells whether a tensor arrived as it was sent."""

from __future__ import annotations

import torch

Digest = tuple[float, float]

CHUNK = 2**24
"""Numbers that are widened to float64 at once."""


def digest(tensor: torch.Tensor) -> Digest:
    """Sum, and sum weighted by position, of a tensor in float64.

    The first changes with any single value, the second also where values change places. Both are exact
    enough for equality: the same bytes give the same sums on the same kind of device; see :func:`same`.
    """
    flat = tensor.detach().reshape(-1)
    total = weighted = 0.0
    for start in range(0, flat.numel(), CHUNK):
        piece = flat[start : start + CHUNK].to(torch.float64)
        position = torch.arange(start + 1, start + 1 + len(piece), dtype=torch.float64, device=piece.device)
        total += float(piece.sum())
        weighted += float((piece * (position / flat.numel())).sum())
    return total, weighted


def same(a: Digest, b: Digest) -> bool:
    """Whether two digests belong to equal tensors, up to the rounding of a float64 sum on another device."""
    return all(abs(x - y) <= 1e-9 * max(1.0, abs(x), abs(y)) for x, y in zip(a, b, strict=True))


def first_difference(sent: dict[str, Digest], arrived: dict[str, Digest]) -> str | None:
    """Name of the first parameter, in the order of sending, that did not arrive as sent; None where all did."""
    for name, value in sent.items():
        if name not in arrived or not same(value, arrived[name]):
            return name
    return None
