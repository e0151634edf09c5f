"""The front of the server on Ray Serve: HTTP, and which engines answer. A thin shell around pure classes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from blade_dist.serving.api import make_app
from blade_dist.serving.current import Current, NoEngine, Served, check_same_policy
from blade_dist.serving.door import Door, Limits, Metrics
from blade_dist.serving.engines import (
    ENGINE,
    HEALTH_S,
    ONE_LOOP,
    EngineHandle,
    Replicas,
    applications,
    first,
    next_name,
    start,
)
from blade_dist.serving.opened import OpenedExport, open_export
from blade_dist.serving.request import Resolver

APP, FRONT = "blade-dist", "front"


class EngineStarter:
    """Engines of one export after another, as an application of Serve each."""

    def __init__(self, replicas: Replicas, limits: Limits, metrics: Metrics) -> None:
        self._replicas, self._limits, self._metrics = replicas, limits, metrics

    async def newest(self) -> Served:
        """Those that run, with their export: where a front died while engines were started, these are not all."""
        found = await asyncio.to_thread(applications)
        app = next(name for name, running in found.items() if running)
        handle = serve.get_deployment_handle(ENGINE, app)
        opened = await asyncio.to_thread(open_export, await handle.folder.remote())
        for other in found:
            if other != app:
                await asyncio.to_thread(serve.delete, other)
        return self._served(app, handle, opened)

    async def start(self, folder: Path, before: OpenedExport) -> Served:
        """See :class:`blade_dist.serving.current.Starter`."""
        return await asyncio.to_thread(self._start, folder, before)

    async def stop(self, served: Served) -> None:
        """See :class:`blade_dist.serving.current.Starter`."""
        assert isinstance(served.engines, EngineHandle)
        await asyncio.to_thread(serve.delete, served.engines.app)

    def _start(self, folder: Path, before: OpenedExport) -> Served:
        opened = open_export(folder)
        check_same_policy(before, opened)
        self._check_room()
        name = next_name()
        return self._served(name, start(name, folder, self._replicas, self._limits.deadline_s), opened)

    def _check_room(self) -> None:
        """Raises NoEngine where they can't fit beside those that run: at once, and not after all the time to start."""
        threads, count = self._replicas.threads, self._replicas.least
        gpus = self._replicas.engine.tensor_parallel if self._replicas.gpu else 0
        free = ray.available_resources()
        if free.get("CPU", 0) < count * threads or free.get("GPU", 0) < count * gpus:
            each = f"{threads} core(s)" + (f" and {gpus} GPU(s)" if gpus else "")
            raise NoEngine(
                f"no room for {count} more engine(s) of {each} beside those that run; add a node, or start the server "
                "anew with this export"
            )

    def _served(self, app: str, handle: DeploymentHandle, opened: OpenedExport) -> Served:
        resolver = Resolver(opened)
        first(resolver)
        return Served(resolver, EngineHandle(app, handle, self._metrics))


class Front:
    """HTTP: one process, so that what it counts is all there is."""

    def __init__(self, replicas: Replicas, limits: Limits, token: bytes | None) -> None:
        self._made = replicas, limits, token

    async def __serve_build_asgi_app__(self) -> Door:
        replicas, limits, token = self._made
        metrics = Metrics()
        starter = EngineStarter(replicas, limits, metrics)
        return make_app(Current(await starter.newest()), starter, limits, token, metrics)


def application(replicas: Replicas, limits: Limits, token: bytes | None) -> serve.Application:
    """What ``serve.run`` starts once there are engines."""
    front = serve.deployment(serve.ingress()(Front), name=FRONT).options(
        health_check_period_s=HEALTH_S,
        graceful_shutdown_wait_loop_s=0.5,
        # it answers what is too much itself, with 429: nothing may wait before it
        max_ongoing_requests=2 * (replicas.most * replicas.max_ongoing + replicas.max_queued),
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": ONE_LOOP}},
    )
    return front.bind(replicas, limits, token)
