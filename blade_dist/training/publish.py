"""What the engines serve: their memory between pushes, new weights, and the proof that they have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from blade_dist.catalog.legality import Legality
from blade_dist.learners.packing import PromptLists
from blade_dist.rollouts.fleet import Member
from blade_dist.rollouts.health import Life
from blade_dist.rollouts.limits import Task, limit_s
from blade_dist.rollouts.pool import EnginePool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.training.collective import barrier, from_all, from_first, own_rank
from blade_dist.training.probe import probe_gap
from blade_dist.weights.gather import Bucket
from blade_dist.weights.push import PushReport, WeightPusher

TURN_S = 20.0
"""How long rank 0 waits for an engine before it lets the other ranks know that it still waits."""


@dataclass(frozen=True)
class ServedModel:
    """A model that the engines are to serve, and how the process that holds it runs it."""

    buckets: Callable[[], Iterator[Bucket]]
    """Starts a fresh pass over its parameters; collective where they are sharded."""
    logprobs: Callable[[PromptLists], Tensor]
    """float32 ``[T]`` log-probs (nats) of the lists' tokens; collective where the model is."""


@dataclass(frozen=True)
class Published:
    """What it took to make the engines serve a model."""

    seconds: float
    """Of the push and its proof together."""
    bytes: int
    gap: float
    """The probe's largest difference (nats) between an engine's log-probs and the model's."""


class Publisher:
    """A rank's connection to the engines; a context manager that closes it, whatever happens in between.

    Every method is collective over the ranks: rank 0 speaks with the engines, the others wait. A process without a
    process group is a rank of its own. One connection serves several models of one kind, one after another, as long as
    the same engines answer. Engines that are lost meanwhile are left out: those that start in their place join at the
    next :meth:`publish`.
    """

    def __init__(
        self,
        pool: EnginePool,
        transport: str,
        probe: RolloutRequest,
        legality: Legality | None,
        tolerance: float,
        offload: bool = False,
    ) -> None:
        """Connects with the first :meth:`publish`.

        Args:
            pool: the engines.
            transport: of weights, see :func:`~blade_dist.weights.transports.choose_transport`.
            probe: what is asked after every push, with ``group_size`` 1.
            legality: of constrained lists; None where they are free text.
            tolerance: largest gap (nats) that is accepted.
            offload: whether the engines' memory is given to the learners between two pushes.
        """
        self._pool = pool
        self._transport = transport
        self._probe = probe
        self._legality = legality
        self._tolerance = tolerance
        self._offload = offload
        self._members: list[Member] = []
        self._connection: WeightPusher | None = None
        self._connected: list[Life] = []
        """To whom, in the order of the connection's numbers."""

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()

    def offload(self) -> None:
        """Engines that share GPUs with the learners free their memory until the next :meth:`publish`."""
        if self._offload:
            self._call("sleep", task="sleep")
            from_first(lambda: self._pool.slept(self._members))

    def publish(self, version: tuple[int, int], model: ServedModel) -> Published:
        """Makes the engines that answer serve ``model`` as ``version`` (attempt, step), and proves it.

        Where none is left it waits for the next that has started, and begins anew.

        Raises:
            WeightPushError: the engines serve something else; it names the first parameter that differs.
            UserError: an engine was lost too often.
        """
        began = time.perf_counter()
        while True:
            number = self._begin(version[1])
            bytes_sent, gap = self._push(version, model)
            if self._members:
                from_first(partial(self._pool.proven, number, self._members))
                return Published(time.perf_counter() - began, bytes_sent, gap)

    def _begin(self, step: int) -> int:
        """Number of a push that begins, once an engine answers; every rank knows who takes part."""
        # in short turns: the ranks that wait for rank 0 have a limit of their own, whatever an engine needs to start
        while (push := from_first(lambda: self._pool.begin_push(step, TURN_S))) is None:
            pass
        self._members = push.members
        return push.number

    def _push(self, version: tuple[int, int], model: ServedModel) -> tuple[int, float]:
        """Bytes that were sent, and the probe's gap; engines that are lost on the way are no members any more."""
        if self._offload:
            # the cache comes back last: while weights are received, an engine holds some of them twice
            self._call("wake", "weights", task="wake")
        report, pusher = self._send(version, model)
        if self._offload:
            self._call("wake", "kv_cache", task="wake")
        answers = self._call("generate", self._probe, task="probe")
        if not answers:
            return report.bytes, 0.0
        gap = probe_gap(answers, self._probe, model.logprobs, self._legality)
        if gap > self._tolerance:
            raise pusher.diagnose(gap, self._tolerance)
        return report.bytes, gap

    def _send(self, version: tuple[int, int], model: ServedModel) -> tuple[PushReport, WeightPusher]:
        began = time.time()
        lives = [member.life for member in self._members]
        if self._connection is None or self._connected != lives:
            self._disconnect()
            engines, limit = [member.engine for member in self._members], limit_s(self._pool.settings, "push")
            self._connection = WeightPusher(engines, self._transport, model.buckets, own_rank(), barrier, limit)
            self._connected = lives
        pusher = self._connection.of(model.buckets)
        report = pusher.push(version)
        lost = {lives[number]: how for of_rank in from_all(pusher.lost) for number, how in of_rank.items()}
        if own_rank() == 0:
            for life, how in lost.items():
                self._pool.lost(life, "push", began, how)
        self._members = [member for member in self._members if member.life not in lost]
        return report, pusher

    def _call(self, verb: str, *arguments: Any, task: Task) -> list[Any]:
        """Rank 0 calls every member; the answers of those that are not lost, who alone are members from now on."""
        given = from_first(lambda: self._pool.call(self._members, verb, *arguments, task=task))
        self._members = [member for member in self._members if member.life in given]
        return list(given.values())

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
