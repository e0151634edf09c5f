"""Weights by CUDA IPC: learner and engine share a GPU, and the engine copies from the learner's memory.

Every rank holds the whole bucket after the gather, so that each serves the engines on its GPU. The GPU is known by its
UUID: Ray gives every process its own numbering.
"""

from __future__ import annotations

from typing import Any

import ray
import torch

from blade_dist.weights.gather import Bucket
from blade_dist.weights.wire import describe_bucket, pack, unpack


class IpcSender:
    """This rank's end: serves the engines whose first worker is on this rank's GPU."""

    def __init__(self, engines: list[Any], rank: int) -> None:
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        places = [ray.get(engine.describe.remote()) for engine in engines]
        strangers = [place["gpus"] for place in places if len(place["gpus"]) != 1]
        if strangers:
            raise RuntimeError(f"weights.transport ipc serves engines of one GPU each; got one on {strangers[0]}")
        self._all = engines
        self._engines = [engine for engine, place in zip(engines, places, strict=True) if place["gpus"] == [uuid]]
        ray.get([engine.connect.remote("ipc", {"rank": rank}) for engine in self._engines])

    def begin(self, version: tuple[int, int]) -> None:  # noqa: ARG002 - engines learn it at the end
        """This rank's engines make ready."""
        ray.get([engine.start_update.remote() for engine in self._engines])

    def send(self, bucket: Bucket) -> None:
        """Returns when this rank's engines have loaded the bucket."""
        from torch.multiprocessing.reductions import reduce_tensor

        buffer = pack(bucket)
        torch.cuda.current_stream().synchronize()  # another process reads it, and knows nothing of this stream
        _, handle = reduce_tensor(buffer)
        ray.get([engine.receive.remote({**describe_bucket(bucket), "handle": handle}) for engine in self._engines])

    def finish(self, version: tuple[int, int]) -> list[dict[str, float]]:
        """Seconds of each part of every engine, other ranks' included (called on rank 0, when all ranks have sent)."""
        return ray.get([engine.finish_update.remote(version) for engine in self._all])

    def close(self) -> None:
        self._engines = []


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
