"""A pool of engines: starts them, and splits a request over them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from blade_dist.batches import Ranked, Rollouts
from blade_dist.cluster.placement import Role
from blade_dist.errors import UserError
from blade_dist.rollouts.engine import RolloutEngine
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.rollouts.spec import EngineSpec, engine_environment
from blade_dist.settings import Config, Way


class EnginePool:
    """Handles of running engines. Plain data: it may be sent to another actor.

    An engine is an actor with one thread, so that it answers in the order in which it was asked; a push is a call like
    any other. That is what makes the version of a list's weights follow from when the list was requested.
    """

    def __init__(self, engines: list[Any], timeout_s: float) -> None:
        self.engines = engines
        self._timeout_s = timeout_s

    def generate(self, request: RolloutRequest) -> Rollouts:
        """The lists, in the request's order; see :meth:`submit` and :meth:`collect`."""
        return self.collect(self.submit(request))

    def submit(self, request: RolloutRequest) -> list[Any]:
        """Starts the request and returns at once.

        Each engine takes a contiguous share of the prompts. Returns references to the parts, in order.
        """
        return [engine.generate.remote(part) for engine, part in self._shares(request)]

    def beam_search(self, request: RolloutRequest, width: int) -> Rollouts:
        """The best list of each prompt by beam search, in the request's order."""
        parts = [engine.beam_search.remote(part, width) for engine, part in self._shares(request)]
        return self.collect(parts)

    def rank(self, request: RolloutRequest) -> Rollouts:
        """The K best first items of each prompt, in the request's order."""
        return self.collect([engine.rank.remote(part) for engine, part in self._shares(request)])

    def candidates(self, request: RolloutRequest, size: int) -> Ranked:
        """The ``size`` best first items of each prompt with their log-probs, in the request's order."""
        parts = [engine.candidates.remote(part, size) for engine, part in self._shares(request)]
        return Ranked.concat(self._answers(parts))

    def decode(self, request: RolloutRequest, way: Way, beams: int) -> Rollouts:
        """The one list of each prompt by a way of decoding; ``beams``: width of a search over lists."""
        if way == "rank":
            return self.rank(request)
        if way == "beam":
            return self.beam_search(request, beams)
        return self.generate(replace(request, temperature=0.0 if way == "list" else 1.0))

    def forget(self) -> None:
        """Drops the prompts that the engines have cached."""
        self._answers([engine.forget.remote() for engine in self.engines])

    def generated(self) -> int:
        """Tokens that the engines have generated since their start."""
        return sum(self._answers([engine.generated.remote() for engine in self.engines]))

    def collect(self, parts: list[Any]) -> Rollouts:
        """Waits for all parts of a request; they are one batch then, in the request's order.

        Raises:
            RuntimeError: an engine did not answer in time.
        """
        return Rollouts.concat(self._answers(parts))

    def _answers(self, parts: list[Any]) -> list[Any]:
        try:
            answers: list[Any] = ray.get(parts, timeout=self._timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise RuntimeError(
                f"an engine did not answer within rollout.request_timeout_s = {self._timeout_s:.0f} s"
            ) from None
        return answers

    def _shares(self, request: RolloutRequest) -> list[tuple[Any, RolloutRequest]]:
        rows = np.array_split(np.arange(len(request)), len(self.engines))
        return [(engine, request.take(part)) for engine, part in zip(self.engines, rows, strict=True) if len(part)]


class RunningPool:
    """Owns the engines and their place in the cluster: a context manager of the driver."""

    def __init__(self, config: Config, spec: EngineSpec, roles: list[Role]) -> None:
        """``roles``: one per engine, of a placement."""
        self._config = config
        self._roles = roles
        self._spec = spec
        self._group: PlacementGroup | None = None

    def __enter__(self) -> EnginePool:
        """Reserves every engine's place at once, then starts them; returns when all of them answer.

        Raises:
            UserError: the cluster has no place for them within ``rollout.start_timeout_s``.
        """
        rollout = self._config.rollout
        bundles = [role.bundle for role in self._roles]
        # one group for all: engines that are placed one by one could leave the last without a place, and wait for ever
        self._group = placement_group(bundles, bundle_label_selector=[role.selector for role in self._roles])
        if not self._group.wait(timeout_seconds=rollout.start_timeout_s):
            have = {name: amount for name, amount in ray.available_resources().items() if name in ("CPU", "GPU")}
            remove_placement_group(self._group)
            raise UserError(
                f"rollout.engines: no place for {len(bundles)} engine(s) of {bundles[0]} within "
                f"rollout.start_timeout_s = {rollout.start_timeout_s:.0f} s; the cluster has {have} free"
            )
        engines = [
            RolloutEngine.options(
                num_cpus=role.cpus,
                num_gpus=role.gpus,
                max_restarts=0,  # a restarted engine would serve the weights that it was started from
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index),
                runtime_env={"env_vars": engine_environment(self._config, bool(role.gpus))},
            ).remote(self._spec)
            for index, role in enumerate(self._roles)
        ]
        try:
            ray.get([engine.describe.remote() for engine in engines])
        except BaseException:
            self.__exit__()
            raise
        self._engines = engines
        return EnginePool(engines, rollout.request_timeout_s)

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
