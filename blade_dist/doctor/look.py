"""Looks at this machine and, through Ray, at the others."""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, TypeVar

import psutil
import ray
import torch
import torch.distributed as dist
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from blade_dist.errors import UserError
from blade_dist.nodes.survey import node_facts
from blade_dist.nodes.versions import versions
from blade_dist.weights.rendezvous import join_store, open_store

Answer = TypeVar("Answer")

TENSOR_BYTES = 32 * 2**20
"""Of the all-reduce."""

ROUNDS = 5
DEADLINE_S = 60.0


def on_node(node: str, function: Callable[[], Answer], gpus: int = 0) -> Answer:
    """What ``function`` returns on a node of the connected cluster, with ``gpus`` of its GPUs.

    Raises:
        UserError: the node has not answered in time.
    """
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, num_gpus=gpus, scheduling_strategy=strategy)(function)
    try:
        answer: Answer = ray.get(task.remote(), timeout=DEADLINE_S)
    except ray.exceptions.GetTimeoutError:
        raise UserError(
            f"node {node[:8]} has not answered within {DEADLINE_S:g} s: is it busy with other work?"
        ) from None
    return answer


def gpus_of_node(node: str, gpus: int, idle: bool) -> list[dict[str, Any]] | str:
    """:func:`gpu_facts` of all GPUs of a node of the connected cluster, or why they are not known.

    ``idle``: as :func:`gpus_are_idle`, asked once before anything is looked at: Ray's books lag behind a task's end.
    """
    # Ray hides the GPUs from a task that reserves none: it must reserve all, and would wait until they are free
    if not idle:
        return "GPUs of the cluster are in use"
    try:
        return on_node(node, gpu_facts, gpus)
    except (ray.exceptions.RayError, UserError) as error:
        return last_line(error)


def gpus_are_idle() -> bool:
    """Whether nothing in the connected cluster has reserved a GPU."""
    idle: bool = ray.available_resources().get("GPU", 0) == ray.cluster_resources().get("GPU", 0)
    return idle


def last_line(error: Exception) -> str:
    """Of what an error says; Ray's begin with the traceback of the other process."""
    return str(error).strip().splitlines()[-1][:160]


def requirements() -> dict[str, list[str]]:
    """What the installed packages of the stack require, by package."""
    lines = {}
    for package in versions():
        try:
            lines[package] = requires(package) or []
        except PackageNotFoundError:
            continue
    return lines


def gpu_facts() -> list[dict[str, Any]]:
    """Name, free and total bytes of each GPU."""
    if not torch.cuda.is_available():
        return []
    facts = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        facts.append({"name": torch.cuda.get_device_name(number), "free": free, "total": total})
    return facts


def free_memory() -> int:
    """Bytes that processes may still take."""
    return int(psutil.virtual_memory().available)


def free_disk(folder: Path) -> int:
    """Bytes below ``folder``, or the part of its path that is there."""
    there = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    return shutil.disk_usage(there).free


def shared_memory_size() -> int:
    """Of ``/dev/shm``; 0 where there is none."""
    return shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0


def storage_problem(folder: Path) -> str:
    """Empty where a file can be written and renamed; a folder that was not there is removed again."""
    made = [part for part in (folder.absolute(), *folder.absolute().parents) if not part.exists()]
    mark = folder.absolute() / f".doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return str(node_facts(mark)["writes"])
    except OSError as error:
        return str(error)
    finally:
        with suppress(OSError):
            mark.unlink()
        for part in made:
            with suppress(OSError):
                part.rmdir()


def is_free(port: int) -> bool:
    """Whether nothing listens there on the loopback."""
    with socket.socket() as trial:
        trial.settimeout(1)
        return trial.connect_ex(("127.0.0.1", port)) != 0


def bandwidths(idle: bool) -> dict[str, float | str]:
    """All-reduce of every other node of the connected cluster with this one: bytes per second, or why not.

    NCCL between nodes that both have GPUs, where all of the cluster are ``idle``; else gloo.
    """
    here = ray.get_runtime_context().get_node_id()
    has_gpu = {info["NodeID"]: bool(info["Resources"].get("GPU")) and idle for info in ray.nodes()}
    others = {info["NodeManagerAddress"]: info["NodeID"] for info in ray.nodes() if info["Alive"]}
    rates: dict[str, float | str] = {}
    for address, node in others.items():
        if node != here:
            rates[address] = bandwidth(here, node, "nccl" if has_gpu[here] and has_gpu[node] else "gloo")
    return rates


def bandwidth(here: str, other: str, backend: str) -> float | str:
    """Bytes per second of an all-reduce between two nodes (``here`` is the caller's), or why there was none."""
    address = ray.util.get_node_ip_address()
    # The caller holds the store, not rank 0: both ends may then start in any order, and the port is never free between
    # being chosen and being listened on.
    _held, port = open_store(address, 2, DEADLINE_S)
    end = ray.remote(num_cpus=0, num_gpus=int(backend == "nccl"), max_retries=0)(all_reduce)
    ends = [
        end.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            rank, address, port, backend
        )
        for rank, node in enumerate((here, other))
    ]
    try:
        return min(ray.get(ends, timeout=DEADLINE_S))
    except ray.exceptions.RayError as error:
        return last_line(error)


def all_reduce(rank: int, address: str, port: int, backend: str) -> float:
    """One of two ends; bytes per second."""
    # Both libraries would otherwise choose an interface by themselves, and with several take one that leads nowhere.
    os.environ.setdefault(f"{backend.upper()}_SOCKET_IFNAME", _interface(address, port))
    store = join_store(address, port, 2, DEADLINE_S)
    dist.init_process_group(backend, store=store, rank=rank, world_size=2)
    try:
        tensor = torch.ones(TENSOR_BYTES // 4, device="cuda" if backend == "nccl" else "cpu")
        dist.all_reduce(tensor)
        dist.barrier()
        began = time.perf_counter()
        for _ in range(ROUNDS):
            dist.all_reduce(tensor)
        float(tensor[0])  # waits for the device
        return ROUNDS * TENSOR_BYTES / (time.perf_counter() - began)
    finally:
        dist.destroy_process_group()


def _interface(address: str, port: int) -> str:
    """The network interface on the way to ``address``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((address, port))
        here = way.getsockname()[0]
    if here == address:  # this is that node: the way to itself is the loopback, which leads to no other
        here = ray.util.get_node_ip_address()
    return next(name for name, given in psutil.net_if_addrs().items() if any(a.address == here for a in given))
