"""The engines' processes: who may be asked, what is done about a lost one, what starts in its place. Ray's side of
:mod:`~blade_dist.rollouts.health`, in an actor that the driver starts beside itself.

It waits for nobody: every call looks first at what has changed. Those who wait ask again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from blade_dist.cluster.placement import Role
from blade_dist.rollouts.engine import RolloutEngine
from blade_dist.rollouts.health import STRIKES, Health, Life, State
from blade_dist.rollouts.incident import DUMP_S, last_words
from blade_dist.rollouts.limits import Loss, limit_s
from blade_dist.rollouts.spec import EngineSpec, engine_environment
from blade_dist.settings import Config
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths


@dataclass(frozen=True)
class Member:
    """An engine's process, and how to call it."""

    life: Life
    engine: Any
    """Handle of the actor."""


@dataclass(frozen=True)
class Serving:
    """Who may be asked for lists."""

    members: list[Member]
    comes: bool
    """Whether somebody will serve without another push, where nobody does."""
    given_up: str | None
    """Why no engine is started any more."""


@dataclass(frozen=True)
class Push:
    """A push that has begun."""

    number: int
    members: list[Member]
    """Who takes part; nobody while no engine answers."""
    given_up: str | None


def start_engine(config: Config, spec: EngineSpec, role: Role, group: PlacementGroup, place: int) -> Any:
    """Starts an engine in its place in the cluster; its handle."""
    return RolloutEngine.options(
        num_cpus=role.cpus,
        num_gpus=role.gpus,
        max_restarts=0,  # an engine that Ray restarts by itself would serve the weights that it was started from
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place),
        runtime_env={"env_vars": engine_environment(config, bool(role.gpus))},
    ).remote(spec)


class Fleet:
    """See the module."""

    def __init__(
        self, config: Config, spec: EngineSpec, roles: list[Role], group: PlacementGroup, engines: list[Any]
    ) -> None:
        """``engines``: handles of those that were started first, one per role."""
        self._config = config
        self._spec = spec
        self._roles = roles
        self._group = group
        self._health = Health(len(roles), limit_s(config.rollout, "start"))
        self._engines = engines
        self._described = [engine.describe.remote() for engine in engines]
        self._began = [time.time()] * len(roles)
        self._about: list[dict[str, Any] | None] = [None] * len(roles)
        self._news: list[str] = []

    def serving(self) -> Serving:
        """Who may be asked for lists."""
        self._look()
        return Serving(self._members(State.SERVING), self._health.serving_comes(), self._given_up())

    def addresses(self) -> list[str]:
        """Of the nodes on which engines answer."""
        self._look()
        return [about["node_ip"] for about in self._about if about is not None]

    def answering(self) -> list[Member]:
        """All that have started, whatever they hold."""
        self._look()
        return self._members(State.STALE, State.PUSHING, State.SERVING, State.ASLEEP)

    def begin_push(self, step: int) -> Push:
        """A push of the weights of ``step`` begins, where an engine answers."""
        if not self.answering():
            return Push(0, [], self._given_up())
        number, lives = self._health.begin_push(step)
        return Push(number, [self._member(life) for life in lives], self._given_up())

    def proven(self, push: int, lives: list[Life]) -> None:
        """They hold the weights of the push, and have passed the probe."""
        self._health.proven(push, lives)

    def slept(self, lives: list[Life]) -> None:
        """They gave their memory back."""
        self._health.slept(lives)

    def lost(self, loss: Loss) -> None:
        """Kills what is left of the process, keeps what is known of its end, and starts another in its place."""
        life = loss.life
        if self._health.state(life) is not None:
            about = self._about[life.place]
            self._replace(loss, "It never answered.\n" if about is None else _words(about, loss.silent))

    def news(self, known: int) -> list[str]:
        """A line for each engine that was lost, but for the first ``known``."""
        self._look()
        return self._news[known:]

    def _look(self) -> None:
        """Sees who answers by now, and who should."""
        for life in self._health.living(State.STARTING):
            if self._health.given_up is None and ray.wait([self._described[life.place]], timeout=0)[0]:
                self._see_start(life)
        for life in self._health.late():
            if self._health.given_up is None:
                self.lost(self._at_start(life, silent=True))

    def _see_start(self, life: Life) -> None:
        try:
            self._about[life.place] = ray.get(self._described[life.place])
        except ray.exceptions.RayError as error:
            self._replace(self._at_start(life, silent=False), f"{error}\n")
        else:
            self._health.answered(life)

    def _at_start(self, life: Life, silent: bool) -> Loss:
        return Loss(life, "the driver", "start", self._began[life.place], silent)

    def _replace(self, loss: Loss, words: str) -> None:
        """``words``: what is known of the process's end."""
        place, line = loss.life.place, loss.line(self._config.rollout)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-engine-{place}.txt"
        kept = RunPaths(self._config.run.dir.absolute()).incidents / name
        write_text(kept, f"{line}\n\n{words}")
        ray.kill(self._engines[place])  # a stopped process, too: its raylet kills what does not go by itself
        self._about[place] = None
        line = f"{line} (see {kept})"
        if self._health.died(loss.life, loss.failure) is None:
            self._news.append(line)
        else:
            self._news.append(f"{line}; another one starts in its place")
            self._start(place)

    def _start(self, place: int) -> None:
        engine = start_engine(self._config, self._spec, self._roles[place], self._group, place)
        self._engines[place], self._described[place] = engine, engine.describe.remote()
        self._began[place] = time.time()

    def _member(self, life: Life) -> Member:
        return Member(life, self._engines[life.place])

    def _members(self, *states: State) -> list[Member]:
        return [self._member(life) for life in self._health.living(*states)]

    def _given_up(self) -> str | None:
        if (given_up := self._health.given_up) is None:
            return None
        life, failure = given_up
        return (
            f"rollout.engines: engine {life.place} {failure}, {STRIKES} times without a step between; {self._news[-1]}"
        )


def _words(about: dict[str, Any], silent: bool) -> str:
    """:func:`~blade_dist.rollouts.incident.last_words` of an engine, on its node."""
    if about["node_id"] == ray.get_runtime_context().get_node_id():
        return last_words(about["pid"], about["log"], silent)
    there = NodeAffinitySchedulingStrategy(about["node_id"], soft=False)
    call = _last_words_there.options(scheduling_strategy=there).remote(about["pid"], about["log"], silent)
    try:
        return str(ray.get(call, timeout=2 * DUMP_S))
    except (ray.exceptions.RayError, TimeoutError) as error:
        return f"Its node does not answer: {type(error).__name__}\n"


_last_words_there: Any = ray.remote(num_cpus=0, max_retries=0)(last_words)

FleetActor: Any = ray.remote(Fleet)
