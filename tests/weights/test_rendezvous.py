"""Ports of transports: one that an engine is given listens already, so that nobody else can take it."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray
import torch

from blade_dist.weights import nccl
from blade_dist.weights.rendezvous import join_store, open_store

HOST = "127.0.0.1"


def test_a_port_is_never_free_once_it_is_known() -> None:
    store, port = open_store(HOST, 2)
    with pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, port))
    join_store(HOST, port, 2).set("key", "value")
    assert store.get("key") == b"value"


def test_a_store_listens_on_its_address_only() -> None:
    _store, port = open_store(HOST, 2)
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_vllms_metadata_group_works_over_a_store_that_is_open_already() -> None:
    store, port = open_store(HOST, 2)
    sender = nccl.metadata_group(store, 0, 2)
    receiver = nccl.metadata_group(join_store(HOST, port, 2), 1, 2)
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(receiver.broadcast_obj, None, 0)
        sender.broadcast_obj((3, None), 0)
        assert arriving.result(timeout=30) == (3, None)


@ray.remote(num_cpus=0)
class Engine:
    """Joins the store that it is given, as a worker's end does first."""

    def describe(self) -> dict[str, Any]:
        return {"node_ip": ray.util.get_node_ip_address(), "world_size": 1}

    def connect(self, transport: str, info: dict[str, Any]) -> None:
        assert transport == "nccl"
        join_store(info["address"], info["port"], info["size"], timeout_s=5).set("joined", "yes")


def test_nccl_gives_engines_a_port_that_is_held(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No communicator is made (that takes two GPUs): the engine reaches the sender's store before there is one."""
    stores: list[Any] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(nccl, "_communicator", lambda store, *_: stores.append(store))
    nccl.NcclSender([Engine.remote(), Engine.remote()], 60.0)
    assert [store.get("joined") for store in stores] == [b"yes", b"yes"]
