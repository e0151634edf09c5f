"""Weights over gloo: CPU engines. One group of its own per engine, on a store of its own."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import ray
import torch
from torch.distributed import ProcessGroupGloo, TCPStore

from blade_dist.weights.gather import Bucket
from blade_dist.weights.wire import CONNECT_TIMEOUT_S, bucket_bytes, describe_bucket, pack, unpack


def reachable_address(engine_ip: str) -> str:
    """The address under which an engine reaches this process: loopback where both are on one node."""
    own = ray.util.get_node_ip_address()
    return "127.0.0.1" if engine_ip == own else own


def open_store(address: str, world_size: int) -> tuple[TCPStore, int]:
    """A store that listens on ``address`` only, on a free port."""
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    store = TCPStore(
        host_name=address,
        port=port,
        world_size=world_size,
        is_master=True,
        timeout=timedelta(seconds=CONNECT_TIMEOUT_S),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return store, port


def join_group(store: TCPStore, rank: int, world_size: int, address: str) -> ProcessGroupGloo:
    """A raw gloo group, apart from any default group of the process."""
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = timedelta(seconds=CONNECT_TIMEOUT_S)
    return ProcessGroupGloo(store, rank, world_size, options)


class GlooSender:
    """Rank 0 of one group per engine; an engine's workers are ranks 1 and up."""

    def __init__(self, engines: list[Any]) -> None:
        self._engines = engines
        self._groups: list[tuple[TCPStore, ProcessGroupGloo]] = []
        for engine in engines:
            place = ray.get(engine.describe.remote())
            address = reachable_address(place["node_ip"])
            size = 1 + place["world_size"]
            store, port = open_store(address, size)
            info = {"address": address, "port": port, "size": size, "bind": _own_side(place["node_ip"], address)}
            joined = engine.connect.remote("gloo", info)
            self._groups.append((store, join_group(store, 0, size, address)))
            ray.get(joined)

    def send(self, bucket: Bucket) -> None:
        described = describe_bucket(bucket)
        buffer = pack(bucket).cpu()
        received = [engine.receive.remote(described) for engine in self._engines]
        sends = [group.broadcast(buffer, 0) for _, group in self._groups]
        for send in sends:
            send.wait()
        ray.get(received)

    def close(self) -> None:
        self._groups.clear()


class GlooReceiver:
    """One worker's end."""

    def __init__(self, info: dict[str, Any], worker_rank: int) -> None:
        self._store = TCPStore(
            host_name=info["address"],
            port=info["port"],
            world_size=info["size"],
            is_master=False,
            timeout=timedelta(seconds=CONNECT_TIMEOUT_S),
        )
        self._group = join_group(self._store, 1 + worker_rank, info["size"], info["bind"])

    def receive(self, bucket: dict[str, Any]) -> Bucket:
        buffer = torch.empty(bucket_bytes(bucket), dtype=torch.uint8)
        self._group.broadcast(buffer, 0).wait()
        return unpack(buffer, bucket)


def _own_side(engine_ip: str, address: str) -> str:
    """The address that the engine's side listens on."""
    return address if address == "127.0.0.1" else engine_ip
