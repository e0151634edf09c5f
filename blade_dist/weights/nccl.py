"""Weights over NCCL: engines with GPUs of their own. One communicator per engine, apart from torch.distributed's.

Not yet proved on two GPUs (NCCL refuses two ranks on one).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import ray
import torch

from blade_dist.weights.gather import Bucket
from blade_dist.weights.stream import END, Announcement, Descriptions, StreamSender
from blade_dist.weights.wire import bucket_bytes, pack, unpack

PIECE_BYTES = 256 * 2**20
"""Of one transfer."""

POLL_S = 0.001
"""How often a sender that waits looks whether an engine has failed."""


def _communicator(address: str, port: int, rank: int, size: int, device: torch.device) -> Any:
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.utils import StatelessProcessGroup

    group = StatelessProcessGroup.create(host=address, port=port, rank=rank, world_size=size)
    return PyNcclCommunicator(group, device=device)


class NcclSender(StreamSender):
    """Rank 0 of one communicator per engine. Announcements go over the store that the communicator was made with."""

    piece_bytes = PIECE_BYTES

    def __init__(self, engines: list[Any]) -> None:
        super().__init__(engines)
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

    def hold(self, piece: Bucket) -> None:
        """Packs on the GPU."""
        self._held = pack(piece)

    def release(self, following: Announcement) -> None:
        """To all engines, and waits until it is there or an engine has failed."""
        for group in self._groups:
            group.group.broadcast_obj(following, src=0)
            group.broadcast(self._held, src=0, stream=torch.cuda.current_stream())
        sent = torch.cuda.Event()
        sent.record()
        while not sent.query():
            if ray.wait(self._updates, timeout=POLL_S)[0]:
                raise RuntimeError("an engine stopped before the end of a weight push")

    def close(self) -> None:
        self._groups.clear()


class NcclReceiver:
    """One worker's end."""

    def __init__(self, info: dict[str, Any], worker: Any) -> None:
        self._device = worker.device
        self._group = _communicator(info["address"], info["port"], 1 + worker.rank, info["size"], worker.device)
        self._descriptions = Descriptions()

    def stream(self, first: Announcement) -> Iterator[Bucket]:
        """The pieces of one push, in tensors of their own: vLLM keeps those of a layer until it is whole."""
        piece = first
        while piece[0] != END:
            description = self._descriptions.look_up(piece)
            buffer = torch.empty(bucket_bytes(description), dtype=torch.uint8, device=self._device)
            piece = self._group.group.broadcast_obj(None, src=0)
            self._group.broadcast(buffer, src=0, stream=torch.cuda.current_stream())
            torch.cuda.current_stream().synchronize()
            yield unpack(buffer, description)
