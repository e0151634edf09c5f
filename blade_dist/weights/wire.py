"""A bucket as bytes: what both ends of every transport agree on."""

from __future__ import annotations

from typing import Any

import torch

from blade_dist.weights.gather import Bucket

CONNECT_TIMEOUT_S = 120.0
"""How long the two ends of a transport wait for each other."""


def describe_bucket(bucket: Bucket) -> dict[str, Any]:
    """Names, dtypes and shapes: what both ends must agree on."""
    return {
        "names": [name for name, _ in bucket],
        "dtypes": [str(tensor.dtype).removeprefix("torch.") for _, tensor in bucket],
        "shapes": [tuple(tensor.shape) for _, tensor in bucket],
    }


def pack(bucket: Bucket) -> torch.Tensor:
    """All bytes of the bucket in one flat uint8 tensor."""
    return torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for _, tensor in bucket])


def bucket_bytes(bucket: dict[str, Any]) -> int:
    """Bytes of the bucket that is described."""
    return sum(_size(dtype, shape) for dtype, shape in zip(bucket["dtypes"], bucket["shapes"], strict=True))


def unpack(buffer: torch.Tensor, bucket: dict[str, Any]) -> Bucket:
    """Views of a packed buffer, the opposite of :func:`pack`."""
    tensors: Bucket = []
    start = 0
    for name, dtype, shape in zip(bucket["names"], bucket["dtypes"], bucket["shapes"], strict=True):
        end = start + _size(dtype, shape)
        piece = buffer[start:end]
        if start % getattr(torch, dtype).itemsize:
            piece = piece.clone()  # a view must start at a multiple of the element's size
        tensors.append((name, piece.view(getattr(torch, dtype)).reshape(shape)))
        start = end
    return tensors


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel() * getattr(torch, dtype).itemsize)
