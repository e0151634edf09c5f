"""Which transport serves, and its two ends. To add one: a file with both ends, and a line in each function."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from blade_dist.weights.gather import Bucket

CONNECT_TIMEOUT_S = 120.0
"""How long the two ends wait for each other."""


class SendingEnd(Protocol):
    """The learner's end."""

    def send(self, bucket: Bucket) -> None:
        """Delivers a bucket to every engine; returns when all have loaded it."""

    def close(self) -> None:
        """Lets go of groups and stores."""


class ReceivingEnd(Protocol):
    """The end inside a vLLM worker."""

    def receive(self, bucket: dict[str, Any]) -> Bucket:
        """Tensors of the bucket that ``bucket`` describes, on the worker's device, its own to keep."""


def choose_transport(wanted: str, engines_have_gpus: bool, share_gpus: bool) -> str:
    """``wanted``, or for ``auto``: gloo on CPU, ipc where learner and engine share a GPU, nccl otherwise."""
    if wanted != "auto":
        return wanted
    if not engines_have_gpus:
        return "gloo"
    return "ipc" if share_gpus else "nccl"


def sending_end(transport: str, engines: list[Any], rank: int) -> SendingEnd | None:
    """The learner's end on this rank, connected to every engine; None where this rank sends nothing."""
    if transport == "ipc":
        from blade_dist.weights.ipc import IpcSender

        return IpcSender(engines, rank)
    if rank != 0:
        return None
    if transport == "nccl":
        from blade_dist.weights.nccl import NcclSender

        return NcclSender(engines)
    from blade_dist.weights.gloo import GlooSender

    return GlooSender(engines)


def receiving_end(transport: str, info: dict[str, Any], worker: Any) -> ReceivingEnd:
    """The worker's end, connected."""
    if transport == "ipc":
        from blade_dist.weights.ipc import IpcReceiver

        return IpcReceiver(worker.device)
    if transport == "nccl":
        from blade_dist.weights.nccl import NcclReceiver

        return NcclReceiver(info, worker)
    from blade_dist.weights.gloo import GlooReceiver

    return GlooReceiver(info, worker.rank)


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
