"""Ray: an existing cluster, or one on this machine for the length of a command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import ray

from blade_dist.cluster.lost import after_loss, lost_nodes, nodes_there
from blade_dist.cluster.placement import NODE_LABEL, demand
from blade_dist.cluster.signals import deaf_children, kept_handlers
from blade_dist.errors import RoleLostError, UserError, origin
from blade_dist.nodes.survey import check_nodes
from blade_dist.settings import Config

SMALL_ACTORS_CPUS = 2
"""Cores that a local cluster grants beyond engines and learners, for rewards and estimates."""

OBJECT_STORE_BYTES = 10**9
"""Object store of a local cluster."""

STARTS, SLOW = 3, "timed out during startup"
"""How often a local cluster is started, and what Ray says where it is given up for its slowness alone."""


TOO_LONG = "AF_UNIX path length"
"""What Ray says of a socket that the system can't name."""


@contextmanager
def ray_runtime(
    config: Config,
    meanwhile: AbstractContextManager[object] | None = None,
    engines: bool = True,
    learners: bool = True,
) -> Iterator[None]:
    """Connects to ``ray.address`` / ``RAY_ADDRESS``, or starts a local cluster and stops it at the end.

    A local cluster counts as many cores as the settings require, so that a small machine may be oversubscribed.

    Args:
        config: the settings.
        meanwhile: is open until Ray has answered, which takes seconds.
        engines, learners: whether the command needs them, where it goes on without a node.

    Raises:
        UserError: the cluster does not answer, its nodes do not go together, or one of them was lost.
        NodeLostError: one was lost, and there is room for the command on the others.
    """
    if ray.is_initialized():
        yield
        return
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    with meanwhile or nullcontext():
        join_ray(address, max(os.cpu_count() or 1, wanted_cpus(config)), "ray.address")
    known: frozenset[str] = frozenset()
    try:
        known = nodes_there()
        check_nodes(config.run.dir)
        yield
    except Exception as error:
        cause = origin(error)
        if isinstance(cause, UserError) and not isinstance(cause, RoleLostError):
            raise  # what a user has to mend, nodes or not
        if lost := lost_nodes(known):
            raise after_loss(lost, demand(config, engines, learners), config.ray.wait_for_node_s) from error
        raise
    finally:
        ray.shutdown()


def join_ray(address: str | None, cpus: int, setting: str) -> None:
    """Connects to a cluster, or starts a local one that counts so many cores.

    Raises:
        UserError: it does not answer, or does not start; ``setting``: what names the address.
    """
    try:
        with kept_handlers():
            if address:
                ray.init(address=address, log_to_driver=_heard(), logging_level=logging.WARNING)
            else:
                with deaf_children():
                    _start_local(cpus)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"{setting}: cannot join {address or 'a local cluster'}: {error}") from None
    except OSError as error:
        if TOO_LONG not in str(error):
            raise
        setting, folder = temporary_folder()
        raise UserError(
            f"{setting}: {folder} is too long a path for Ray's sockets, which may have 107 characters and add some 65; "
            "set RAY_TMPDIR to a short folder of this machine, as in RAY_TMPDIR=/tmp"
        ) from None


def _start_local(cpus: int) -> None:
    """A cluster on this machine alone.

    Raises:
        UserError: it did not start; Ray gives its processes half a minute, which a busy machine may not be enough for.
    """
    for _ in range(STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                # saves seconds; Ray Train's placement-group cleaner needs it, but here all groups end with this process
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=_heard(),
                logging_level=logging.WARNING,
            )
        except Exception as error:
            if SLOW not in str(error):
                raise
            ray.shutdown()
        else:
            return
    raise UserError(
        f"Ray did not start within 30 s, {STARTS} times: is the machine busy? Its logs: /tmp/ray/session_latest"
    )


def temporary_folder() -> tuple[str, str]:
    """The variable that names the folder in which a local cluster makes its own, and that folder."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "RAY_TMPDIR")
    return name, os.environ.get(name, "/tmp")


def _heard() -> bool:
    """Whether this process prints what the workers print: where that goes to a log, or is asked for."""
    return os.environ.get("RAY_LOG_TO_DRIVER") == "1"


RETRIES = 2
"""How often a small actor is asked again what it was asked when its process ended: a third end in a row is one too
many. Ray's limit of restarts counts all that an actor ever needed, and a long run may need many."""


def beside_driver(restarts: int = -1) -> dict[str, Any]:
    """Options of a small actor: it runs on the driver's node, so that no other node's loss takes it along.

    ``restarts``: how often its process is started again, without its memory; -1 is without a limit.
    """
    place = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
    return {"num_cpus": 0, "label_selector": place, "max_restarts": restarts}


def wanted_cpus(config: Config) -> int:
    """Cores that engines, learners and the small actors reserve together."""
    engines = config.rollout.engines * config.rollout.cpus_per_engine
    learners = config.learner.workers * config.learner.cpus_per_worker
    return engines + learners + SMALL_ACTORS_CPUS
