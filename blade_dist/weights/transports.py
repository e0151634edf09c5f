"""Which transport serves, and its two ends.

To add one: a file with both ends, a branch in each function, and its name in ``WeightSettings.transport``.

Imports are inside the functions, because each transport brings a stack that the others' machines may lack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from blade_dist.weights.answers import Lost
from blade_dist.weights.gather import Bucket
from blade_dist.weights.stream import Announcement


class SendingEnd(Protocol):
    """The learner's end. An engine that is lost on the way is left out, and the others get the whole push."""

    lost: dict[int, Lost]
    """By the engine's position among those that it was connected to."""

    def begin(self, version: tuple[int, int]) -> None:
        """The engines make ready for a push."""

    def send(self, bucket: Bucket) -> None:
        """Delivers a bucket to every engine; the bucket's tensors may change once this returns."""

    def finish(self, version: tuple[int, int]) -> list[dict[str, float]]:
        """Rank 0, when all ranks have sent: seconds of each part, of every engine that is left, once it serves."""

    def close(self) -> None:
        """Lets go of groups and stores."""


class StreamReceiver(Protocol):
    """The end inside a vLLM worker, of a transport that streams."""

    def stream(self, first: Announcement) -> Iterator[Bucket]:
        """The pieces of one push, on the worker's device."""


class BucketReceiver(Protocol):
    """The end inside a vLLM worker, of a transport that calls the engine for each bucket."""

    def receive(self, bucket: dict[str, Any]) -> Bucket:
        """Tensors of the bucket that ``bucket`` describes, on the worker's device; nobody else writes into them."""


def choose_transport(wanted: str, engines_have_gpus: bool, share_gpus: bool) -> str:
    """``wanted``, or for ``auto``: gloo on CPU, ipc where learner and engine share a GPU, nccl otherwise."""
    if wanted != "auto":
        return wanted
    if not engines_have_gpus:
        return "gloo"
    return "ipc" if share_gpus else "nccl"


def sending_end(transport: str, engines: list[Any], rank: int, timeout_s: float) -> SendingEnd | None:
    """The learner's end on this rank, connected to every engine; None where this rank sends nothing.

    ``timeout_s``: how long an engine may be silent.
    """
    if transport == "ipc":
        from blade_dist.weights.ipc import IpcSender

        return IpcSender(engines, rank, timeout_s)
    if rank != 0:
        return None
    if transport == "nccl":
        from blade_dist.weights.nccl import NcclSender

        return NcclSender(engines, timeout_s)
    from blade_dist.weights.gloo import GlooSender

    return GlooSender(engines, timeout_s)


def receiving_end(transport: str, info: dict[str, Any], worker: Any) -> StreamReceiver | BucketReceiver:
    """The worker's end, connected."""
    if transport == "ipc":
        from blade_dist.weights.ipc import IpcReceiver

        return IpcReceiver(worker.device)
    if transport == "nccl":
        from blade_dist.weights.nccl import NcclReceiver

        return NcclReceiver(info, worker)
    from blade_dist.weights.gloo import GlooReceiver

    return GlooReceiver(info, worker.rank)
