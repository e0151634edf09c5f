"""Nodes that a command has lost, and the wait until its roles fit on what is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import ray

from blade_dist.cluster.placement import Demand, cluster_nodes, place
from blade_dist.errors import NodeLostError, UserError

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


def after_loss(lost: list[str], wanted: Demand, patience: float) -> UserError:
    """What a command that has lost nodes ends with; waits ``patience`` seconds until its roles fit.

    Returns:
        A NodeLostError as soon as what is wanted fits on the nodes that are there; else a UserError.
    """
    what, until = f"node {', '.join(lost)} was lost", time.monotonic() + patience
    if patience:
        _LOG.warning("%s; until engines and learners fit on the others, or one comes, %g s", what, patience)
    while True:
        try:
            place(cluster_nodes(), wanted)
        except UserError as error:
            refused = error
        else:
            again = "the same command goes on from its last checkpoint on the nodes that are there"
            return NodeLostError(f"{what}; {again}") if patience else UserError(f"{what}; {again}")
        if time.monotonic() >= until:
            return UserError(f"{what}, and {refused}; then the same command goes on from its last checkpoint")
        time.sleep(POLL_S)
