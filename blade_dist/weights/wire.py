"""A bucket as bytes: what both ends of every transport agree on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from blade_dist.weights.gather import Bucket

ALIGNMENT = 64
"""Bytes: every tensor of a packed bucket starts at a multiple of this, so that it can be viewed as any dtype."""

Description = dict[str, Any]
"""``names``, ``dtypes`` and ``shapes`` of a bucket's tensors, in order."""


def describe_bucket(bucket: Bucket) -> Description:
    """Names, dtypes and shapes: what both ends must agree on."""
    return {
        "names": tuple(name for name, _ in bucket),
        "dtypes": tuple(str(tensor.dtype).removeprefix("torch.") for _, tensor in bucket),
        "shapes": tuple(tuple(tensor.shape) for _, tensor in bucket),
    }


def pieces(bucket: Bucket, piece_bytes: int) -> Iterator[Bucket]:
    """The bucket, cut between tensors into buckets of about ``piece_bytes`` (more where one tensor is larger)."""
    piece: Bucket = []
    size = 0
    for name, tensor in bucket:
        if piece and size + tensor.numel() * tensor.element_size() > piece_bytes:
            yield piece
            piece, size = [], 0
        piece.append((name, tensor))
        size += tensor.numel() * tensor.element_size()
    if piece:
        yield piece


def pack(bucket: Bucket, buffer: torch.Tensor | None = None) -> torch.Tensor:
    """All bytes of the bucket in one flat uint8 tensor.

    Args:
        bucket: tensors on any device.
        buffer: uint8, of :func:`bucket_bytes`; default: a new one beside the first tensor.
    """
    description = describe_bucket(bucket)
    if buffer is None:
        buffer = torch.empty(bucket_bytes(description), dtype=torch.uint8, device=bucket[0][1].device)
    for (_, target), (_, tensor) in zip(unpack(buffer, description), bucket, strict=True):
        target.copy_(tensor)
    return buffer


def bucket_bytes(description: Description) -> int:
    """Bytes of the packed bucket that is described, the gaps between its tensors included."""
    return sum(
        _aligned(_size(dtype, shape)) for dtype, shape in zip(description["dtypes"], description["shapes"], strict=True)
    )


def unpack(buffer: torch.Tensor, description: Description) -> Bucket:
    """Views of a packed buffer, the opposite of :func:`pack`."""
    tensors: Bucket = []
    start = 0
    columns = (description[key] for key in ("names", "dtypes", "shapes"))
    for name, dtype, shape in zip(*columns, strict=True):
        size = _size(dtype, shape)
        tensors.append((name, buffer[start : start + size].view(getattr(torch, dtype)).view(shape)))
        start += _aligned(size)
    return tensors


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel() * getattr(torch, dtype).itemsize)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
