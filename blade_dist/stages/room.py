"""Where the engines that serve an export have room: a cluster, or this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from blade_dist.cluster.placement import Node, cluster_nodes
from blade_dist.cluster.runtime import join_ray
from blade_dist.errors import UserError
from blade_dist.serving.opened import EngineOptions

ADDRESS = "RAY_ADDRESS"
"""Environment variable of the cluster; without it a local Ray starts."""


@dataclass(frozen=True)
class Room:
    """What each engine gets."""

    threads: int
    gpu: bool


@contextmanager
def joined(
    engines: int, options: EngineOptions, threads: int | None, option: str, doubled: bool = False
) -> Iterator[Room]:
    """Ray, and the room of each engine there.

    Args:
        engines: how many there may be.
        options: of each.
        threads: cores of each on a CPU; None shares them out.
        option: of the command line that says how many there are.
        doubled: on one machine, as many again may start on the cores of those that they replace.

    Raises:
        UserError: Ray does not answer or start; not all of them fit.
    """
    address = os.environ.get(ADDRESS)
    here = Node("", "this machine", float(os.cpu_count() or 1))
    if address is None:
        threads = threads or shared_threads([here], engines)
    join_ray(address, max(int(here.cpus), (2 if doubled else 1) * engines * (threads or 1)), ADDRESS)
    try:
        nodes = cluster_nodes()
        room = Room(threads or shared_threads(nodes, engines), any(node.gpus for node in nodes))
        check_room(nodes, engines, options.tensor_parallel, room, option)
        yield room
    finally:
        ray.shutdown()


def shared_threads(nodes: Sequence[Node], engines: int) -> int:
    """Cores of an engine, where the engines share the nodes out."""
    return max(1, int(min(node.cpus for node in nodes)) // math.ceil(engines / len(nodes)))


def check_room(nodes: Sequence[Node], engines: int, tensor_parallel: int, room: Room, option: str) -> None:
    """
    Raises:
        UserError: not all engines fit onto the nodes, be they free.
    """
    gpus, threads = tensor_parallel, room.threads
    if gpus > 1 and not room.gpu:
        raise UserError(f"--tensor-parallel {gpus}: there is no GPU; leave it out")
    fits = [min(node.cpus // threads, node.gpus // gpus if room.gpu else math.inf) for node in nodes]
    if sum(fits) < engines:
        each = f"{threads} core(s)" + (f" and {gpus} GPU(s)" if room.gpu else "")
        raise UserError(
            f"{option} {engines}: each engine takes {each}, and there is room for {int(sum(fits))} on "
            f"{len(nodes)} node(s); ask for fewer, or lower --threads"
        )
