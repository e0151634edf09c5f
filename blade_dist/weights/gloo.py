"""Weights over gloo, for engines on CPUs. One group per engine, on a store of that engine alone.

Groups are apart, so that an engine that dies takes no other with it; and a group that has failed is never used again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import ray
import torch
from torch.distributed import ProcessGroupGloo, TCPStore

from blade_dist.weights.answers import Lost, answers, sorted_answers
from blade_dist.weights.gather import Bucket
from blade_dist.weights.rendezvous import CONNECT_TIMEOUT_S, join_store, open_store
from blade_dist.weights.stream import END, Announcement, Descriptions, StreamSender
from blade_dist.weights.wire import ALIGNMENT, Description, bucket_bytes, describe_bucket, pack, unpack

PIECE_BYTES = 4 * 2**20
"""Of one transfer: small enough that an engine loads one piece while the next arrives."""

TAIL_BYTES = ALIGNMENT
"""Behind every piece: two int64, the number of the next one and the bytes of its description (0: known)."""


def reachable_address(engine_ip: str) -> str:
    """The address under which an engine reaches this process: loopback where both are on one node."""
    here = ray.util.get_node_ip_address()
    return "127.0.0.1" if engine_ip == here else here


def join_group(store: TCPStore, rank: int, world_size: int, address: str, timeout_s: float) -> ProcessGroupGloo:
    """A raw gloo group.

    Not by ``init_process_group``: learners and vLLM have a default group each, and a process can have no second one.
    ``address`` is this process's side; without it gloo listens on whatever the host's name resolves to. ``timeout_s``:
    of every transfer.
    """
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = timedelta(seconds=timeout_s)
    return ProcessGroupGloo(store, rank, world_size, options)


class _Buffer:
    """Memory of one piece after another. Two of them take turns: one travels while the other is packed or loaded."""

    def __init__(self) -> None:
        self._bytes = self.taken = torch.empty(0, dtype=torch.uint8)
        self.works: list[Callable[[], object]] = []
        """Each waits for a transfer that still reads or writes ``taken``."""

    def take(self, size: int) -> torch.Tensor:
        """``size`` bytes, once the transfers before are over."""
        self.wait()
        if len(self._bytes) < size:
            self._bytes = torch.empty(size, dtype=torch.uint8)
        self.taken = self._bytes[:size]
        return self.taken

    def wait(self) -> None:
        """Until its transfers are over."""
        for wait in self.works:
            wait()
        self.works = []


class GlooSender(StreamSender):
    """Rank 0 of one group per engine; an engine's workers are ranks 1 and up."""

    piece_bytes = PIECE_BYTES

    def __init__(self, engines: list[Any], timeout_s: float) -> None:
        super().__init__(engines, timeout_s)
        self._groups: dict[int, tuple[TCPStore, ProcessGroupGloo]] = {}
        self._buffers = [_Buffer(), _Buffer()]
        calls = {number: engine.describe.remote() for number, engine in self._living.items()}
        places, lost = sorted_answers(calls, timeout_s)
        for number, how in lost.items():
            self._lose(number, how)
        for number, place in places.items():
            self._connect(number, place)

    def _connect(self, number: int, place: dict[str, Any]) -> None:
        address = reachable_address(place["node_ip"])
        size = 1 + place["world_size"]
        store, port = open_store(address, size, self._timeout_s)
        bind = _listening_address(place["node_ip"], address)
        # an engine waits for the next piece while another one, that hangs, is waited for
        patience = 2 * self._timeout_s + CONNECT_TIMEOUT_S
        info = {"address": address, "port": port, "size": size, "bind": bind, "timeout_s": patience}
        # not awaited yet: both sides join the group together
        joined = self._living[number].connect.remote("gloo", info)

        def join() -> None:
            self._groups[number] = (store, join_group(store, 0, size, address, self._timeout_s))

        self._guarded(number, joined, join)
        (answer,) = answers([joined], self._timeout_s)
        if number in self._living and isinstance(answer, Lost):
            self._lose(number, answer)

    def hold(self, piece: Bucket) -> None:
        """Packs while the piece before travels."""
        self._buffers.reverse()
        buffer = self._buffers[0]
        tensor = buffer.take(bucket_bytes(describe_bucket(piece)) + TAIL_BYTES)
        pack(piece, tensor[:-TAIL_BYTES])

    def release(self, following: Announcement) -> None:
        """Starts to send it to all engines at once; what follows is written into its tail.

        So an engine knows how much to receive next while it still loads this piece.
        """
        number, description = following
        text = b"" if description is None else json.dumps(description).encode()
        buffer = self._buffers[0]
        buffer.taken[-TAIL_BYTES:].view(torch.int64)[:2] = torch.tensor([number, len(text)])
        tensors = [buffer.taken, *([torch.frombuffer(bytearray(text), dtype=torch.uint8)] if text else [])]
        buffer.works = []
        for tensor in tensors:
            for engine in list(self._living):
                self._guarded(engine, self._updates[engine], partial(self._send_to, engine, tensor, buffer))
        if number == END:  # the caller's tensors, and this object, may go away now
            for each in self._buffers:
                each.wait()

    def _send_to(self, number: int, tensor: torch.Tensor, buffer: _Buffer) -> None:
        work = self._groups[number][1].broadcast(tensor, 0)
        buffer.works.append(partial(self._guarded, number, self._updates[number], work.wait))

    def close(self) -> None:
        self._groups.clear()
        self._buffers.clear()


class GlooReceiver:
    """One worker's end."""

    def __init__(self, info: dict[str, Any], worker_rank: int) -> None:
        self._store = join_store(info["address"], info["port"], info["size"])
        self._group = join_group(self._store, 1 + worker_rank, info["size"], info["bind"], info["timeout_s"])
        self._descriptions = Descriptions()
        self._buffers = [_Buffer(), _Buffer()]

    def stream(self, first: Announcement) -> Iterator[Bucket]:
        """The pieces of one push; a piece's tensors live until the next is requested."""
        arriving = self._post(first)
        while arriving is not None:
            buffer, description = arriving
            buffer.wait()
            number, size = buffer.taken[-TAIL_BYTES:].view(torch.int64)[:2].tolist()
            # before the piece is loaded, so that the next one arrives in the meantime
            arriving = self._post((number, self._receive_description(size) if size else None))
            yield unpack(buffer.taken, description)

    def _post(self, piece: Announcement) -> tuple[_Buffer, Description] | None:
        """Starts to receive a piece; None at the end of the stream."""
        if piece[0] == END:
            return None
        description = self._descriptions.look_up(piece)
        self._buffers.reverse()
        buffer = self._buffers[0]
        buffer.works = [self._group.broadcast(buffer.take(bucket_bytes(description) + TAIL_BYTES), 0).wait]
        return buffer, description

    def _receive_description(self, size: int) -> Description:
        text = torch.empty(size, dtype=torch.uint8)
        self._group.broadcast(text, 0).wait()
        description: Description = json.loads(text.numpy().tobytes())
        return description


def _listening_address(engine_ip: str, address: str) -> str:
    """The address that the engine's side listens on."""
    return address if address == "127.0.0.1" else engine_ip
