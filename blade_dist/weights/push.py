"""The push: start, send every bucket, finish; then the proof that the engines serve what was sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blade_dist.weights.answers import Lost, answers
from blade_dist.weights.digest import digests, first_difference
from blade_dist.weights.gather import Bucket
from blade_dist.weights.transports import sending_end


class WeightPushError(RuntimeError):
    """The engines do not serve the learner's weights."""


@dataclass(frozen=True)
class PushReport:
    """What a push took."""

    seconds: float
    bytes: int
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of each part on rank 0: the learner's, and as ``engine <part>`` the slowest engine's at the same time.

    ``cpu`` counts all threads of the process.
    """


class WeightPusher:
    """One rank's end of the push.

    :meth:`push` and :meth:`diagnose` are collective over the learner's ranks, also on those that send nothing: a
    sharded parameter is whole only where all of them gather it.
    """

    def __init__(
        self,
        engines: list[Any],
        transport: str,
        buckets: Callable[[], Iterator[Bucket]],
        rank: int,
        barrier: Callable[[], object],
        timeout_s: float = 600.0,
    ) -> None:
        """Connects.

        Args:
            engines: handles of the engine actors.
            transport: ``gloo``, ``nccl`` or ``ipc``.
            buckets: starts a fresh pass over the parameters.
            rank: this learner's rank; rank 0 conducts.
            barrier: waits for all ranks.
            timeout_s: how long an engine may be silent before it is lost.
        """
        self._engines = engines
        self._buckets = buckets
        self._rank = rank
        self._barrier = barrier
        self._timeout_s = timeout_s
        self._end = sending_end(transport, engines, rank, timeout_s)

    @property
    def lost(self) -> dict[int, Lost]:
        """Engines that this rank found dead or silent, by position; the others were served without them."""
        return {} if self._end is None else self._end.lost

    def push(self, version: tuple[int, int]) -> PushReport:
        """Sends every parameter to every engine, which then serves ``version``, (attempt, step).

        A transport that has failed is closed, and never used again: an engine that received half of a push may wait for
        the other half.
        """
        started, cpu = time.perf_counter(), time.process_time()
        sent, passed = 0, {"gather": 0.0, "send": 0.0}
        if self._end is not None:
            self._end.begin(version)
        begun = marked = time.perf_counter()
        try:
            for bucket in self._buckets():
                gathered = time.perf_counter()
                if self._end is not None:
                    self._end.send(bucket)
                sent += sum(tensor.numel() * tensor.element_size() for _, tensor in bucket)
                passed["gather"] += gathered - marked
                marked = time.perf_counter()
                passed["send"] += marked - gathered
            self._barrier()  # with ipc every rank serves its own engines: none may finish before all have sent
            engines = self._end.finish(version) if self._end is not None and self._rank == 0 else []
        except BaseException:
            self.close()
            raise
        ended = time.perf_counter()
        parts = {"start": begun - started, **passed, "finish": ended - marked}
        parts |= {"cpu": time.process_time() - cpu, **_slowest(engines)}
        return PushReport(ended - started, sent, parts)

    def of(self, buckets: Callable[[], Iterator[Bucket]]) -> WeightPusher:
        """Over the same connection, the parameters of another model of the same kind."""
        other = copy(self)
        other._buckets = buckets
        return other

    def diagnose(self, gap: float, tolerance: float) -> WeightPushError:
        """Why the log-probs differ: the first parameter that did not arrive as the learner holds it."""
        held = {name: value for bucket in self._buckets() for name, value in digests(bucket).items()}
        head = f"after the push an engine's log-probs differ from the learner's by {gap:.2g} (at most {tolerance:.2g})"
        calls = [engine.digests.remote() for engine in self._engines]
        for number, arrived in enumerate(answers(calls, self._timeout_s)):
            if not isinstance(arrived, Lost) and (name := first_difference(held, arrived)) is not None:
                how = "arrived changed" if name in arrived else "did not arrive"
                return WeightPushError(f"{head}: parameter {name} {how} at engine {number}")
        return WeightPushError(
            f"{head}: all {len(held)} parameters arrived as sent, so an engine serves another copy of one of them "
            f"(a head tied to {next(iter(held))}, or a packed layer, is the likely one) or, where the gap is a few "
            "times what is allowed and grew with the logits, it is rounding: set weights.tolerance"
        )

    def close(self) -> None:
        """Lets go of the transport."""
        if self._end is not None:
            self._end.close()


def _slowest(engines: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for seconds in engines for name in seconds)
    return {f"engine {name}": max(seconds.get(name, 0.0) for seconds in engines) for name in names}


def largest_gap(engine: np.ndarray, learner: np.ndarray) -> float:
    """Largest absolute difference of two arrays of log-probs (nats); infinite where one is not a number."""
    if not len(engine):
        return 0.0
    # a comparison with nan is false, so that a gap of nan would pass every limit
    gap = np.abs(np.asarray(engine, dtype=np.float64) - np.asarray(learner, dtype=np.float64))
    return float(np.nan_to_num(gap, nan=np.inf).max())
