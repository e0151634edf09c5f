"""Ray: an existing cluster, or one on this machine for the length of a command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from blade_dist.cluster.placement import NODE_LABEL
from blade_dist.errors import UserError
from blade_dist.nodes.survey import check_nodes
from blade_dist.settings import Config

SMALL_ACTORS_CPUS = 2
"""Cores that a local cluster grants beyond engines and learners, for rewards and estimates."""

OBJECT_STORE_BYTES = 10**9
"""Object store of a local cluster."""


@contextmanager
def ray_runtime(config: Config) -> Iterator[None]:
    """Connects to ``ray.address`` / ``RAY_ADDRESS``, or starts a local cluster and stops it at the end.

    A local cluster counts as many cores as the settings require, so that a small machine may be oversubscribed.

    Raises:
        UserError: the cluster does not answer, its nodes do not go together, or one of them was lost.
    """
    if ray.is_initialized():
        yield
        return
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, wanted_cpus(config)),
                # saves seconds; Ray Train's placement-group cleaner needs it, but here all groups end with this process
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"ray.address: cannot join {address or 'a local cluster'}: {error}") from None
    try:
        check_nodes(config.run.dir)
        yield
    except Exception as error:
        if lost := _lost_nodes():
            raise UserError(
                f"node {', '.join(lost)} was lost; start the same command again on as many nodes: it resumes from its "
                "last checkpoint"
            ) from error
        raise
    finally:
        ray.shutdown()


def beside_driver() -> dict[str, Any]:
    """Options of a small actor: it runs on the driver's node, so that no other node's loss takes it along."""
    return {"num_cpus": 0, "label_selector": {NODE_LABEL: ray.get_runtime_context().get_node_id()}}


def _lost_nodes() -> list[str]:
    """Addresses of the nodes that were there and are not."""
    return sorted({info["NodeManagerAddress"] for info in ray.nodes() if not info["Alive"]})


def wanted_cpus(config: Config) -> int:
    """Cores that engines, learners and the small actors reserve together."""
    engines = config.rollout.engines * config.rollout.cpus_per_engine
    learners = config.learner.workers * config.learner.cpus_per_worker
    return engines + learners + SMALL_ACTORS_CPUS
