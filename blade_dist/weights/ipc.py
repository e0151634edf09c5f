"""Weights by CUDA IPC: learner and engine share a GPU, and the engine copies from the learner's memory.

Every rank holds the whole bucket after the gather, so that each serves the engines on its GPU. The GPU is known by its
UUID: Ray gives every process its own numbering.
"""

from __future__ import annotations

from typing import Any

import torch

from blade_dist.weights.answers import Lost, sorted_answers
from blade_dist.weights.gather import Bucket
from blade_dist.weights.wire import describe_bucket, pack, unpack


class IpcSender:
    """This rank's end: serves the engines whose first worker is on this rank's GPU."""

    def __init__(self, engines: list[Any], rank: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.lost: dict[int, Lost] = {}
        self._all = dict(enumerate(engines))
        self._own: dict[int, Any] = {}
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        places = self._call(self._all, "describe")
        strangers = [place["gpus"] for place in places.values() if len(place["gpus"]) != 1]
        if strangers:
            raise RuntimeError(f"weights.transport ipc serves engines of one GPU each; got one on {strangers[0]}")
        self._own = {number: engines[number] for number, place in places.items() if place["gpus"] == [uuid]}
        self._call(self._own, "connect", "ipc", {"rank": rank})

    def begin(self, version: tuple[int, int]) -> None:  # noqa: ARG002 - engines learn it at the end
        """This rank's engines make ready."""
        self._call(self._own, "start_update")

    def send(self, bucket: Bucket) -> None:
        """Returns when this rank's engines have loaded the bucket."""
        from torch.multiprocessing.reductions import reduce_tensor

        buffer = pack(bucket)
        torch.cuda.current_stream().synchronize()  # another process reads it, and knows nothing of this stream
        _, handle = reduce_tensor(buffer)
        self._call(self._own, "receive", {**describe_bucket(bucket), "handle": handle})

    def finish(self, version: tuple[int, int]) -> list[dict[str, float]]:
        """Seconds of each part of every engine, other ranks' included (called on rank 0, when all ranks have sent)."""
        return list(self._call(self._all, "finish_update", version).values())

    def close(self) -> None:
        self._own.clear()

    def _call(self, engines: dict[int, Any], verb: str, *arguments: Any) -> dict[int, Any]:
        """The answers of those that are not lost; one that is lost is left out from then on."""
        calls = {number: getattr(engine, verb).remote(*arguments) for number, engine in engines.items()}
        given, lost = sorted_answers(calls, self._timeout_s)
        self.lost |= lost
        for number in lost:
            self._all.pop(number, None)
            self._own.pop(number, None)
        return given


class IpcReceiver:
    """One worker's end."""

    DEVICE_ARGUMENT = 6
    """Position of the device index among the arguments of ``rebuild_cuda_tensor``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def receive(self, bucket: dict[str, Any]) -> Bucket:
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        arguments = list(bucket["handle"])
        arguments[self.DEVICE_ARGUMENT] = self._device.index  # the sender's number of the GPU is another one here
        shared = rebuild_cuda_tensor(*arguments)
        # a copy: vLLM keeps pieces of a layer until the whole layer has arrived, the sender frees the bucket before
        return unpack(shared.clone(), bucket)
