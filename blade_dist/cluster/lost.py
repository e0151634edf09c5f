"""Nodes that a command has lost, and the wait until its roles fit on what is there."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import NoReturn

import ray

from blade_dist.cluster.placement import cluster_nodes, demand, place
from blade_dist.errors import NodeLostError, UserError
from blade_dist.settings import Config

_LOG = logging.getLogger(__name__)
POLL_S = 1.0
"""Seconds between two looks at the nodes."""


def nodes_there() -> frozenset[str]:
    """Ids of the living nodes."""
    return frozenset(node.id for node in cluster_nodes())


def lost_nodes(ids: Iterable[str]) -> list[str]:
    """Addresses of those of these nodes that have died."""
    wanted = set(ids)
    return sorted(
        {info["NodeManagerAddress"] for info in ray.nodes() if info["NodeID"] in wanted and not info["Alive"]}
    )


def after_loss(lost: list[str], config: Config) -> UserError:
    """What a command that has lost nodes ends with; waits until its roles fit, if it may.

    Returns:
        A NodeLostError as soon as engines and learners fit on the nodes that are there; else a UserError.
    """
    what, patience = f"node {', '.join(lost)} was lost", config.ray.wait_for_node_s
    until = time.monotonic() + patience
    if patience:
        _LOG.warning("%s; until engines and learners fit on the others, or one comes, %g s", what, patience)
    while True:
        try:
            place(cluster_nodes(), demand(config))
        except UserError as error:
            refused = error
        else:
            again = "the same command goes on from its last checkpoint on the nodes that are there"
            return NodeLostError(f"{what}; {again}") if patience else UserError(f"{what}; {again}")
        if time.monotonic() >= until:
            return UserError(f"{what}, and {refused}; then the same command goes on from its last checkpoint")
        time.sleep(POLL_S)


def start_again() -> NoReturn:
    """The same command in this process's place: a job and its scheduler see one that goes on."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
