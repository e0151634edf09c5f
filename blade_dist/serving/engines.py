"""Engines on Ray Serve: an application for each export. Thin shells around pure classes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from blade_dist.rollouts.environment import environment
from blade_dist.serving.batches import Batches
from blade_dist.serving.current import Busy, NoEngine
from blade_dist.serving.door import Metrics
from blade_dist.serving.opened import EngineOptions, OpenedExport, open_export
from blade_dist.serving.recommend import List, Recommender
from blade_dist.serving.request import ListRequest, Resolved, Resolver
from blade_dist.serving.start import start_recommender

APP, ENGINE = "engines-", "engine"
"""Name of an application, before its number; name of its deployment."""
TRIES = 3
"""Engines that a request may be given to: one that kills its engine must not kill all of them."""
STALLED = 10
"""Deadlines after which an engine that still writes the same batch is replaced."""
START_S = 900.0
"""Seconds after which engines that do not answer are given up."""
LOOK_S = 0.2
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""Environment of a Serve process in which requests don't change threads: nothing here blocks the loop, as engines write
on a thread of their own."""
"""Seconds between two looks at whether they do."""
HEALTH_S = 2.0
"""Seconds between two looks at whether a replica lives."""


@dataclass(frozen=True)
class Replicas:
    """How many engines there are, and what each gets."""

    engine: EngineOptions
    least: int = 1
    most: int = 1
    """More than ``least``: Serve starts engines under load, and stops them after it."""
    threads: int = 1
    gpu: bool = False
    max_ongoing: int = 64
    """Requests that an engine has at once, written or waiting beside it."""
    max_queued: int = 256
    """Requests that wait for an engine; further ones are refused."""


class EngineReplica:
    """One engine, which writes batch after batch on a thread of its own."""

    def __init__(self, folder: Path, options: EngineOptions, deadline_s: float) -> None:
        opened = open_export(folder)
        thread = ThreadPoolExecutor(1)
        # started on the thread that it will write on: torch keeps some of its state by thread
        self._recommender = thread.submit(_warm, opened, options).result()
        self._batches = Batches(self._written, thread, options.max_num_seqs)
        self._stalled_s = STALLED * deadline_s

    async def write(self, requests: Sequence[Resolved]) -> list[List]:
        """A list for each."""
        return await self._batches.write(requests)

    def folder(self) -> Path:
        """The export that it writes lists of."""
        return self._recommender.opened.folder

    def check_health(self) -> None:
        """Serve replaces a replica where this raises."""
        if self._batches.busy_s() > self._stalled_s:
            raise RuntimeError(f"the engine has written the same batch for {self._batches.busy_s():.0f} s")

    def _written(self, requests: Sequence[Resolved]) -> list[List]:
        try:
            return self._recommender.lists(requests)
        except Exception:
            logging.getLogger("ray.serve").exception("the engine failed; another one takes its place")
            # it holds halves of requests, which would become the answers of others
            os._exit(1)


def _warm(opened: OpenedExport, options: EngineOptions) -> Recommender:
    """An engine that has written a list: the first takes seconds, which no deadline of a request allows for."""
    recommender = start_recommender(opened, options)
    recommender.lists(first(Resolver(opened)))
    return recommender


def first(resolver: Resolver) -> list[Resolved]:
    """A request, resolved with all that a resolver looks up once."""
    return resolver.resolve([ListRequest(history=[resolver.opened.catalog.item_ids[0]])], ["the first list: "])


class EngineHandle:
    """The engines as the front sees them: what a lost one had is given to another.

    To write a request twice does no harm: lists are the best ones, or follow from the request's seed.
    """

    def __init__(self, app: str, handle: DeploymentHandle, metrics: Metrics) -> None:
        """``app``: name of their application."""
        self.app = app
        self._handle, self._metrics = handle, metrics

    async def write(self, requests: Sequence[Resolved]) -> list[List]:
        """See :class:`blade_dist.serving.current.Engines`."""
        for _ in range(TRIES):
            response = self._handle.write.remote(requests)
            try:
                lists: list[List] = await response
            except asyncio.CancelledError:  # the deadline, or a client that is gone
                response.cancel()
                raise
            except BackPressureError:
                raise Busy from None
            except DeploymentUnavailableError:
                break
            except ray.exceptions.RayActorError:
                self._metrics.retries.inc()
            else:
                return lists
        raise NoEngine

    async def running(self) -> int:
        """See :class:`blade_dist.serving.current.Engines`."""
        return await asyncio.to_thread(lambda: applications().get(self.app, 0))


def applications() -> dict[str, int]:
    """Engines that answer, of each application of engines on the connected cluster; the newest application first."""
    found = serve.status().applications
    names = sorted((name for name in found if name.startswith(APP)), key=_number, reverse=True)
    return {name: _running(found[name].deployments) for name in names}


def next_name() -> str:
    """Of an application that is to be started."""
    return f"{APP}{max(map(_number, applications()), default=0) + 1}"


def _number(name: str) -> int:
    return int(name.removeprefix(APP))


def _running(deployments: dict[str, Any]) -> int:
    return int(deployments[ENGINE].replica_states.get("RUNNING", 0)) if ENGINE in deployments else 0


def start(name: str, folder: Path, replicas: Replicas, deadline_s: float) -> DeploymentHandle:
    """Engines of an export, when all of them are ready.

    Raises:
        NoEngine: they did not start; nothing of them is left.
    """
    common: dict[str, Any] = {"health_check_period_s": HEALTH_S, "graceful_shutdown_wait_loop_s": 0.5}
    scaling = {
        "min_replicas": replicas.least,
        "initial_replicas": replicas.least,
        "max_replicas": replicas.most,
        "target_ongoing_requests": max(1, replicas.max_ongoing // 2),
    }
    count = {"autoscaling_config": scaling} if replicas.most > replicas.least else {"num_replicas": replicas.least}
    variables = environment(replicas.threads, replicas.gpu, constrained=True)
    engines = serve.deployment(EngineReplica, name=ENGINE).options(
        **common,
        **count,
        max_ongoing_requests=replicas.max_ongoing,
        max_queued_requests=replicas.max_queued,
        ray_actor_options={
            "num_cpus": replicas.threads,
            "num_gpus": replicas.engine.tensor_parallel if replicas.gpu else 0,
            "runtime_env": {"env_vars": {**variables, **ONE_LOOP, "HF_HUB_OFFLINE": "1"}},
        },
    )
    app = engines.bind(folder, replicas.engine, deadline_s)
    target = serve.RunTarget(app, name=name, route_prefix=None)
    (handle,) = serve.run_many([target], wait_for_applications_running=False)
    until = time.monotonic() + START_S
    while (status := serve.status().applications[name].status) != ApplicationStatus.RUNNING:
        late = time.monotonic() > until
        if late or status == ApplicationStatus.DEPLOY_FAILED:
            why = reason(name) or f"not all of them answered within {START_S:.0f} s"
            serve.delete(name)
            raise NoEngine(f"the engines did not start: {why}")
        time.sleep(LOOK_S)
    return handle


def reason(name: str) -> str:
    """What the deployment of an application that failed says last; of a traceback that is the error."""
    app = serve.status().applications.get(name)
    found = app.deployments.values() if app else []
    failed = [one.message for one in found if "FAIL" in one.status or "UNHEALTHY" in one.status]
    lines = [line.strip() for message in failed for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""
