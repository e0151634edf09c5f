"""Weights over NCCL: engines that share no GPU with a learner. One communicator per engine.

vLLM's trainer-side client gives several independent engines the same ranks, so that each has a communicator here, apart
from torch.distributed's groups. Not yet proved on two GPUs (NCCL refuses two ranks on one).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import ray
import torch
from torch.distributed import TCPStore

from blade_dist.weights.answers import Lost, answers
from blade_dist.weights.gather import Bucket
from blade_dist.weights.rendezvous import join_store, open_store
from blade_dist.weights.stream import END, Announcement, Descriptions, StreamSender
from blade_dist.weights.wire import bucket_bytes, pack, unpack

PIECE_BYTES = 256 * 2**20
"""Of one transfer: large enough for a fast link, small beside what a GPU has to spare."""

POLL_S = 0.001
"""How often a sender that waits looks whether an engine has failed."""


STORE_TIMEOUT_S = 300.0
"""How long an engine waits for the next announcement while the learner gathers and packs."""


def metadata_group(store: TCPStore, rank: int, size: int) -> Any:
    """vLLM's ``StatelessProcessGroup`` over a store that is open already.

    Its own ``create`` would open the store from a port number, which somebody else may hold by then.
    """
    from vllm.distributed.utils import StatelessProcessGroup

    # older versions keep the listening socket beside the store; ours belongs to the store
    extra = {"socket": None} if "socket" in {field.name for field in fields(StatelessProcessGroup)} else {}
    return StatelessProcessGroup(rank=rank, world_size=size, store=store, **extra)


def _communicator(store: TCPStore, rank: int, size: int, device: torch.device) -> Any:
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

    return PyNcclCommunicator(metadata_group(store, rank, size), device=device)


class NcclSender(StreamSender):
    """Rank 0 of one communicator per engine. Announcements go over the store that the communicator was made with."""

    piece_bytes = PIECE_BYTES

    def __init__(self, engines: list[Any], timeout_s: float) -> None:
        super().__init__(engines, timeout_s)
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._groups: list[Any] = []
        address = ray.util.get_node_ip_address()
        places = answers([engine.describe.remote() for engine in engines], timeout_s)
        for number, (engine, place) in enumerate(zip(engines, places, strict=True)):
            if isinstance(place, Lost):
                self._lose(number, place)
                continue
            size = 1 + place["world_size"]
            store, port = open_store(address, size, STORE_TIMEOUT_S)
            joined = engine.connect.remote("nccl", {"address": address, "port": port, "size": size})
            self._groups.append(_communicator(store, 0, size, self._device))
            ray.get(joined, timeout=timeout_s)

    def hold(self, piece: Bucket) -> None:
        """Packs on the GPU."""
        self._held = pack(piece)

    def release(self, following: Announcement) -> None:
        """Sends it to all engines, and waits until it is there or an engine has failed.

        A collective whose other end is gone never ends, and blocks the whole process where it is waited for by
        ``synchronize``: so the event is polled. Nor does anything else on its stream: so the push fails, the learners
        are restarted, and the engine that is lost is found as they connect anew.
        """
        until = time.monotonic() + self._timeout_s
        for group in self._groups:
            group.group.broadcast_obj(following, src=0)
            group.broadcast(self._held, src=0, stream=torch.cuda.current_stream())
        sent = torch.cuda.Event()
        sent.record()
        while not sent.query():
            if ray.wait(list(self._updates.values()), timeout=POLL_S)[0]:
                raise RuntimeError("an engine stopped before the end of a weight push")
            if time.monotonic() > until:
                raise RuntimeError(f"an engine took no piece of the weights for {self._timeout_s:.0f} s")

    def close(self) -> None:
        self._groups.clear()


class NcclReceiver:
    """One worker's end."""

    def __init__(self, info: dict[str, Any], worker: Any) -> None:
        self._device = worker.device
        store = join_store(info["address"], info["port"], info["size"], STORE_TIMEOUT_S)
        self._group = _communicator(store, 1 + worker.rank, info["size"], worker.device)
        self._descriptions = Descriptions()

    def stream(self, first: Announcement) -> Iterator[Bucket]:
        """The pieces of one push, each in new memory: vLLM keeps the tensors of a layer until the layer is whole."""
        piece = first
        while piece[0] != END:
            description = self._descriptions.look_up(piece)
            buffer = torch.empty(bucket_bytes(description), dtype=torch.uint8, device=self._device)
            piece = self._group.group.broadcast_obj(None, src=0)
            self._group.broadcast(buffer, src=0, stream=torch.cuda.current_stream())
            torch.cuda.current_stream().synchronize()
            yield unpack(buffer, description)
