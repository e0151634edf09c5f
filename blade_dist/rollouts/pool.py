"""A pool of engines: starts them, splits a request over them, and asks others in place of one that is lost."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from blade_dist.batches import Ranked, Rollouts
from blade_dist.cluster.placement import Role
from blade_dist.cluster.runtime import beside_driver
from blade_dist.errors import RoleLostError, UserError
from blade_dist.rollouts.asked import Asked, Part
from blade_dist.rollouts.fleet import FleetActor, Member, Push, Serving, start_engine
from blade_dist.rollouts.health import Life
from blade_dist.rollouts.limits import Loss, Task, limit_s
from blade_dist.rollouts.refusal import refusal
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.settings import Config, RolloutSettings, Way
from blade_dist.weights.answers import Lost, answers, sorted_answers

POLL_S = 0.2
"""How often somebody who waits for an engine to start or to serve asks again."""

NEWS_S = 1.0
"""How often the driver asks what became of the engines."""

_LOG = logging.getLogger(__name__)


class NobodyServesError(RuntimeError):
    """Nobody may be asked until new weights are pushed: those who served died, and others start in their place."""


@dataclass(eq=False)
class EnginePool:
    """Running engines. Plain data: it may be sent to another actor.

    An engine is an actor with one thread, so that it answers in the order in which it was asked; a push is a call like
    any other. That is what makes the version of a list's weights follow from when the list was requested.

    Lists follow from their prompt's seed and the weights, so that it does not matter which engine writes them, nor how
    often one dies meanwhile. Whatever asks engines raises :class:`NobodyServesError` where only a push helps, and a
    UserError where an engine was lost too often.
    """

    fleet: Any
    """Handle of the actor that knows who may be asked."""
    settings: RolloutSettings
    user: str = "the driver"
    """Who asks, for the lines that say who waited."""

    @property
    def engines(self) -> list[Any]:
        """Handles of those that answer."""
        members: list[Member] = ray.get(self.fleet.answering.remote())
        return [member.engine for member in members]

    def generate(self, request: RolloutRequest) -> Rollouts:
        """The lists, in the request's order."""
        return self.collect(self.submit(request))

    def submit(self, request: RolloutRequest) -> Asked:
        """Starts the request and returns at once; each engine takes a contiguous share of the prompts."""
        return self._ask(request, "generate")

    def beam_search(self, request: RolloutRequest, width: int) -> Rollouts:
        """The best list of each prompt by beam search, in the request's order."""
        return self.collect(self._ask(request, "beam_search", width))

    def rank(self, request: RolloutRequest) -> Rollouts:
        """The K best first items of each prompt, in the request's order."""
        return self.collect(self._ask(request, "rank"))

    def candidates(self, request: RolloutRequest, size: int) -> Ranked:
        """The ``size`` best first items of each prompt with their log-probs, in the request's order."""
        return Ranked.concat(ray.get(self.settled(self._ask(request, "candidates", size)).answers))

    def decode(self, request: RolloutRequest, way: Way, beams: int) -> Rollouts:
        """The one list of each prompt by a way of decoding; ``beams``: width of a search over lists."""
        if way == "rank":
            return self.rank(request)
        if way == "beam":
            return self.beam_search(request, beams)
        return self.generate(replace(request, temperature=0.0 if way == "list" else 1.0))

    def forget(self) -> None:
        """Drops the prompts that the engines have cached."""
        self.call(self._serving(), "forget", task="lists")

    def generated(self) -> int:
        """Tokens that the engines have generated since their start."""
        return sum(self.call(self._serving(), "generated", task="lists").values())

    def collect(self, asked: Asked) -> Rollouts:
        """Waits for all parts of a request; they are one batch then, in the request's order."""
        return Rollouts.concat(ray.get(self.settled(asked).answers))

    def settled(self, asked: Asked) -> Asked:
        """Waits until every part is answered, those of lost engines by others; the same object where none was lost.

        An engine is lost that died, or that answered nothing for as long as ``rollout.request_timeout_s`` says.
        """
        limit, parts, waiting = limit_s(self.settings, "lists"), list(asked.parts), list(asked.parts)
        heard = dict.fromkeys((part.life for part in parts), time.time())
        while waiting:
            left = min(heard[part.life] for part in waiting) + limit - time.time()
            ready = set(ray.wait([part.answer for part in waiting], timeout=max(0.0, left))[0])
            done = [part for part in waiting if part.answer in ready]
            waiting = [part for part in waiting if part.answer not in ready]
            failed = [part for part in done if answers([part.answer], limit) == [Lost(silent=False)]]
            lost = {part.life: Lost(silent=False) for part in failed}
            if not done:
                overdue = [part.life for part in waiting if time.time() - heard[part.life] >= limit]
                lost = dict.fromkeys(overdue, Lost(silent=True))
            for life, how in lost.items():
                self.lost(life, "lists", heard[life], how)
            heard |= {part.life: time.time() for part in done}
            for part in [*failed, *(part for part in waiting if part.life in lost)]:
                moved = self._parts(asked, part.rows)
                heard |= {other.life: time.time() for other in moved}
                waiting = [other for other in waiting if other is not part] + moved
                parts = [other for other in parts if other is not part] + moved
        return asked if parts == asked.parts else replace(asked, parts=sorted(parts, key=lambda part: part.rows[0]))

    def call(self, members: list[Member], verb: str, *arguments: Any, task: Task) -> dict[Life, Any]:
        """What each of them answers to the same call; those that are lost are reported, and missing."""
        since = time.time()
        calls = {member.life: getattr(member.engine, verb).remote(*arguments) for member in members}
        given, lost = sorted_answers(calls, limit_s(self.settings, task))
        for life, how in lost.items():
            self.lost(life, task, since, how)
        return given

    def lost(self, life: Life, task: Task, since: float, how: Lost) -> None:
        """An engine gave no answer: it is killed, and replaced. ``since``: when it was asked, Unix time."""
        ray.get(self.fleet.lost.remote(Loss(life, self.user, task, since, how.silent)))

    def begin_push(self, step: int, wait_s: float) -> Push | None:
        """A push of the weights of ``step`` to all engines that answer; None where none does for ``wait_s``."""
        until = time.monotonic() + wait_s
        while True:
            push: Push = ray.get(self.fleet.begin_push.remote(step))
            _check(push.given_up)
            if push.members:
                return push
            if time.monotonic() > until:
                return None
            time.sleep(POLL_S)

    def proven(self, push: int, members: list[Member]) -> None:
        """They hold the weights of the push, and have passed the probe: from now on they serve."""
        ray.get(self.fleet.proven.remote(push, [member.life for member in members]))

    def slept(self, members: list[Member]) -> None:
        """They gave their memory back."""
        ray.get(self.fleet.slept.remote([member.life for member in members]))

    def addresses(self) -> list[str]:
        """Of the nodes on which engines answer."""
        addresses: list[str] = ray.get(self.fleet.addresses.remote())
        return addresses

    def given_up(self) -> str | None:
        """Which engine was lost too often, and how; None while lost ones are replaced."""
        serving: Serving = ray.get(self.fleet.serving.remote())
        return serving.given_up

    def check(self) -> None:
        """Raises a UserError where an engine was lost too often, so that nothing is begun that can't go on."""
        _check(self.given_up())

    def _serving(self) -> list[Member]:
        while True:
            serving: Serving = ray.get(self.fleet.serving.remote())
            _check(serving.given_up)
            if serving.members:
                return serving.members
            if not serving.comes:
                raise NobodyServesError("no engine holds the current weights")
            time.sleep(POLL_S)

    def _ask(self, request: RolloutRequest, verb: str, *arguments: Any) -> Asked:
        asked = Asked(request, verb, arguments, [])
        return replace(asked, parts=self._parts(asked, np.arange(len(request))))

    def _parts(self, asked: Asked, rows: NDArray[np.int64]) -> list[Part]:
        """Asks the engines that serve for some rows of the request."""
        members = self._serving()
        shares = zip(members, np.array_split(rows, len(members)), strict=True)
        return [
            Part(own, member.life, getattr(member.engine, asked.verb).remote(asked.request.take(own), *asked.arguments))
            for member, own in shares
            if len(own)
        ]


def _check(given_up: str | None) -> None:
    if given_up is not None:
        raise RoleLostError(f"{given_up}; run the same command again: it goes on from what is saved")


class RunningPool:
    """Owns the engines and their place in the cluster: a context manager of the driver."""

    def __init__(self, config: Config, spec: EngineSpec, roles: list[Role]) -> None:
        """``roles``: one per engine, of a placement."""
        self._config = config
        self._roles = roles
        self._spec = spec
        self._group: PlacementGroup | None = None
        self._fleet: Any = None
        self._ended = threading.Event()
        self._teller = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> EnginePool:
        """Reserves every engine's place at once, then starts them; returns when all of them answer.

        Raises:
            UserError: the cluster has no place for them within ``rollout.start_timeout_s``, or they do not answer
                within ``rollout.ready_timeout_s``.
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
        how = (self._config, self._spec)
        engines = [start_engine(*how, role, self._group, place) for place, role in enumerate(self._roles)]
        self._fleet = FleetActor.options(**beside_driver(restarts=0)).remote(*how, self._roles, self._group, engines)
        pool = EnginePool(self._fleet, rollout)
        try:
            ray.get([engine.describe.remote() for engine in engines], timeout=rollout.ready_timeout_s)
            while len(pool.engines) < len(engines):  # the first push would leave out one that the fleet has not seen
                pool.check()
                time.sleep(POLL_S)
        except ray.exceptions.GetTimeoutError:
            self.__exit__()
            raise UserError(
                f"rollout.engines: no answer within rollout.ready_timeout_s = {rollout.ready_timeout_s:g} s; raise it "
                "where weights come over a slow network"
            ) from None
        except ray.exceptions.ActorDiedError as error:
            self.__exit__()
            if (why := refusal(str(error))) is None:
                raise
            raise UserError(why) from None
        except BaseException:
            self.__exit__()
            raise
        self._teller.start()
        return pool

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._fleet is not None:
            ray.kill(self._fleet)  # first, or it would replace the engines
            self._fleet = None
        if self._teller.ident is not None:
            self._teller.join()  # a call of it after the end of Ray would start another Ray
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _tell(self) -> None:
        """Says what became of the engines while they run; each look also lets the fleet see who has started."""
        fleet, known = self._fleet, 0
        while not self._ended.wait(NEWS_S):
            try:
                news: list[str] = ray.get(fleet.news.remote(known))
            except ray.exceptions.RayError:
                return
            known += len(news)
            for line in news:
                _LOG.warning("%s", line)
