"""What the front does with a request whose engine is lost, busy, or no longer waited for; no Ray runs."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from blade_dist.serving.current import Busy, NoEngine
from blade_dist.serving.door import Metrics
from blade_dist.serving.engines import TRIES, EngineHandle


class Response:
    """What a call of a deployment returns: waits, fails or answers."""

    def __init__(self, end: Any) -> None:
        self.cancelled = False
        self._end = end

    def __await__(self) -> Generator[Any, None, Any]:
        if self._end is None:
            yield from asyncio.sleep(60).__await__()
        if isinstance(self._end, Exception):
            raise self._end
        return self._end

    def cancel(self) -> None:
        self.cancelled = True


class Calls:
    """Calls of an engine, which end one after the other as is said."""

    def __init__(self, *ends: Any) -> None:
        self.responses = [Response(end) for end in ends]
        self.requests: list[Any] = []
        self.metrics = Metrics()
        handle: Any = SimpleNamespace(write=SimpleNamespace(remote=self._remote))
        self.engines = EngineHandle("engines-1", handle, self.metrics)

    def _remote(self, requests: Any) -> Response:
        self.requests.append(requests)
        return self.responses[len(self.requests) - 1]

    def retries(self) -> float | None:
        return self.metrics.registry.get_sample_value("blade_retries_total")


def test_what_a_lost_engine_had_is_given_to_another() -> None:
    calls = Calls(ActorDiedError(), ActorUnavailableError("away", b"1" * 16), ["a list"])
    asked: Any = ["a request"]
    assert asyncio.run(calls.engines.write(asked)) == ["a list"]
    assert (calls.requests, calls.retries()) == ([asked] * 3, 2.0)


def test_a_request_may_end_few_engines_only() -> None:
    calls = Calls(*[ActorDiedError()] * (TRIES + 1))
    with pytest.raises(NoEngine):
        asyncio.run(calls.engines.write([]))
    assert len(calls.requests) == TRIES


def test_a_full_queue_and_an_error_are_not_tried_again() -> None:
    for error, raised in ((BackPressureError(9, 9), Busy), (ValueError("of ours"), ValueError)):
        calls = Calls(error, ["a list"])
        with pytest.raises(raised):
            asyncio.run(calls.engines.write([]))
        assert (len(calls.requests), calls.retries()) == (1, 0.0)


def test_a_deadline_reaches_the_engine() -> None:
    calls = Calls(None)

    async def late() -> None:
        async with asyncio.timeout(0.01):
            await calls.engines.write([])

    with pytest.raises(TimeoutError):
        asyncio.run(late())
    assert calls.responses[0].cancelled
