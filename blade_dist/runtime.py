"""Ray: an existing cluster, or one on this machine for the length of a command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from blade_dist.errors import UserError
from blade_dist.settings import Config

SMALL_ACTORS_CPUS = 2
"""Cores that a local cluster grants beyond engines and learners: Ray Data's tasks, and rewards and estimates."""

OBJECT_STORE_BYTES = 10**9
"""Object store of a local cluster."""


@contextmanager
def ray_runtime(config: Config) -> Iterator[None]:
    """Connects to ``ray.address`` / ``RAY_ADDRESS``, or starts a local cluster and stops it at the end.

    A local cluster counts as many cores as the settings ask for, so that a small machine may be oversubscribed.

    Raises:
        UserError: the cluster does not answer.
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
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"ray.address: cannot join {address or 'a local cluster'}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def wanted_cpus(config: Config) -> int:
    """Cores that engines, learners and the small actors ask for."""
    engines = config.rollout.engines * config.rollout.cpus_per_engine
    learners = config.learner.workers * config.learner.cpus_per_worker
    return engines + learners + SMALL_ACTORS_CPUS
