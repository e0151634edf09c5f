"""Weights over NCCL: engines with GPUs of their own. One communicator per engine, apart from torch.distributed's.

Not yet proved on two GPUs (NCCL refuses two ranks on one).
"""

from __future__ import annotations

import socket
from typing import Any

import ray
import torch

from blade_dist.weights.gather import Bucket
from blade_dist.weights.wire import bucket_bytes, describe_bucket, pack, unpack


def _communicator(address: str, port: int, rank: int, size: int, device: torch.device) -> Any:
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.utils import StatelessProcessGroup

    group = StatelessProcessGroup.create(host=address, port=port, rank=rank, world_size=size)
    return PyNcclCommunicator(group, device=device)


class NcclSender:
    """Rank 0 of one communicator per engine."""

    def __init__(self, engines: list[Any]) -> None:
        self._engines = engines
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._groups = []
        address = ray.util.get_node_ip_address()
        for engine in engines:
            size = 1 + ray.get(engine.describe.remote())["world_size"]
            with socket.create_server((address, 0)) as free:
                port = free.getsockname()[1]
            joined = engine.connect.remote("nccl", {"address": address, "port": port, "size": size})
            self._groups.append(_communicator(address, port, 0, size, self._device))
            ray.get(joined)

    def send(self, bucket: Bucket) -> None:
        described = describe_bucket(bucket)
        buffer = pack(bucket)
        received = [engine.receive.remote(described) for engine in self._engines]
        for group in self._groups:
            group.broadcast(buffer, src=0, stream=torch.cuda.current_stream())
        torch.cuda.current_stream().synchronize()
        ray.get(received)

    def close(self) -> None:
        self._groups.clear()


class NcclReceiver:
    """One worker's end."""

    def __init__(self, info: dict[str, Any], worker: Any) -> None:
        self._device = worker.device
        self._group = _communicator(info["address"], info["port"], 1 + worker.rank, info["size"], worker.device)

    def receive(self, bucket: dict[str, Any]) -> Bucket:
        buffer = torch.empty(bucket_bytes(bucket), dtype=torch.uint8, device=self._device)
        self._group.broadcast(buffer, src=0, stream=torch.cuda.current_stream())
        torch.cuda.current_stream().synchronize()
        return unpack(buffer, bucket)
