"""What the engines serve: their memory between pushes, new weights, and the proof that they have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from torch import Tensor

from blade_dist.catalog.legality import Legality
from blade_dist.learners.packing import PromptLists
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.training.collective import barrier, from_first, own_rank
from blade_dist.training.probe import ask_engines, probe_gap
from blade_dist.weights.gather import Bucket
from blade_dist.weights.push import WeightPusher


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
    process group is a rank of its own. One connection serves several models of one kind, one after another.
    """

    def __init__(
        self,
        engines: list[Any],
        transport: str,
        probe: RolloutRequest,
        legality: Legality | None,
        tolerance: float,
        offload: bool = False,
    ) -> None:
        """Connects.

        Args:
            engines: handles of the engine actors.
            transport: of weights, see :func:`~blade_dist.weights.transports.choose_transport`.
            probe: what is asked after every push, with ``group_size`` 1.
            legality: of constrained lists; None where they are free text.
            tolerance: largest gap (nats) that is accepted.
            offload: whether the engines' memory is given to the learners between two pushes.
        """
        self._engines = engines
        self._probe = probe
        self._legality = legality
        self._tolerance = tolerance
        self._offload = offload
        self._connection = WeightPusher(engines, transport, lambda: iter(()), own_rank(), barrier)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def offload(self) -> None:
        """Engines that share GPUs with the learners free their memory until the next :meth:`publish`."""
        if self._offload:
            self._call_engines("sleep")

    def publish(self, version: tuple[int, int], model: ServedModel) -> Published:
        """Makes every engine serve ``model`` as ``version`` (attempt, step), and proves it.

        Raises:
            WeightPushError: the engines serve something else; it names the first parameter that differs.
        """
        began = time.perf_counter()
        # The cache comes back last: while weights are received, an engine holds some of them twice.
        if self._offload:
            self._call_engines("wake", "weights")
        pusher = self._connection.of(model.buckets)
        report = pusher.push(version)
        if self._offload:
            self._call_engines("wake", "kv_cache")
        answers = from_first(lambda: ask_engines(self._engines, self._probe))
        gap = probe_gap(answers, self._probe, model.logprobs, self._legality)
        if gap > self._tolerance:
            raise pusher.diagnose(gap, self._tolerance)
        return Published(time.perf_counter() - began, report.bytes, gap)

    def _call_engines(self, verb: str, *arguments: Any) -> None:
        """Rank 0 calls every engine; all ranks go on once all have answered."""
        if own_rank() == 0:
            ray.get([getattr(engine, verb).remote(*arguments) for engine in self._engines])
        barrier()
