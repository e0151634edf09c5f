"""Engines that die and hang while they are asked: the pool and its fleet, over plain actors in the engines' place."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from blade_dist.batches import Ragged
from blade_dist.errors import UserError
from blade_dist.rollouts.fleet import Fleet, Member
from blade_dist.rollouts.health import STRIKES
from blade_dist.rollouts.incident import NO_STACKS
from blade_dist.rollouts.pool import EnginePool, NobodyServesError
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.settings import Config
from tests.helpers.ranks import make_imitated, nothing

PROMPTS, WAIT_S = 7, 60.0

SILENT_S = 12.0
"""Of the test that waits for a stopped engine; long enough for the others on a machine that is busy."""


@ray.remote(num_cpus=0)
class Writer:
    """Writes the same lists wherever it is; the next time that it is asked it does something to itself first."""

    _signal: int | None = None

    def describe(self) -> dict[str, Any]:
        node, log = ray.get_runtime_context().get_node_id(), str(Path("/proc/self/fd/2").readlink())
        return {"node_ip": "127.0.0.1", "node_id": node, "pid": os.getpid(), "log": log}

    def signal_when_asked(self, number: int) -> None:
        self._signal = number

    def generate(self, request: RolloutRequest) -> Any:
        if self._signal is not None:
            os.kill(os.getpid(), self._signal)
        return make_imitated(PROMPTS).take(request.prompt)


class Setup:
    """A fleet in this process, whose calls answer at once."""

    def __init__(self, config: Config, engines: int) -> None:
        writers = [Writer.remote() for _ in range(engines)]
        self.fleet = Fleet(config, Any, [Any] * engines, Any, writers)  # type: ignore[arg-type]

        def call(verb: str) -> SimpleNamespace:
            return SimpleNamespace(remote=lambda *arguments: ray.put(getattr(self.fleet, verb)(*arguments)))

        verbs = ("serving", "answering", "begin_push", "proven", "slept", "lost")
        self.pool = EnginePool(SimpleNamespace(**{verb: call(verb) for verb in verbs}), config.rollout, "the test")
        self.wait(lambda: len(self.fleet.answering()) == engines)

    def strike(self, number: int, most: int) -> list[Member]:
        members = self.fleet.serving().members[:most]
        ray.get([member.engine.signal_when_asked.remote(number) for member in members])
        return members

    def push(self) -> None:
        """All that answer get new weights, and are proved."""
        push = self.pool.begin_push(1, WAIT_S)
        assert push is not None
        self.pool.proven(push.number, push.members)

    def wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not until():
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.fixture
def make(
    ray_session: None, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Setup]:
    monkeypatch.setattr("blade_dist.rollouts.fleet.start_engine", lambda *_: Writer.remote())
    run = tiny_config.run.model_copy(update={"dir": tmp_path})

    def setup(engines: int, silent_s: float = WAIT_S) -> Setup:
        rollout = tiny_config.rollout.model_copy(update={"request_timeout_s": silent_s})
        return Setup(tiny_config.model_copy(update={"rollout": rollout, "run": run}), engines)

    return setup


def request() -> RolloutRequest:
    rows = np.arange(PROMPTS)
    return RolloutRequest(rows, Ragged.of([[2, 3]] * PROMPTS), nothing(PROMPTS), rows, 1, 1.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_others_write_what_a_lost_engine_was_asked_for(make: Callable[..., Setup], tmp_path: Path, number: int) -> None:
    silent = number == signal.SIGSTOP
    setup = make(3, SILENT_S if silent else WAIT_S)
    setup.push()
    (lost,) = setup.strike(number, most=1)
    lists = setup.pool.generate(request())
    np.testing.assert_array_equal(lists.prompt, np.arange(PROMPTS))
    assert lists.digests().tolist() == make_imitated(PROMPTS).digests().tolist()

    (line,) = setup.fleet.news(0)
    assert line.startswith("engine 0 (process 1): the test waited for its lists since ")
    assert (f"no answer within rollout.request_timeout_s = {SILENT_S:g} s" if silent else "the process died") in line
    (kept,) = (tmp_path / "incidents").iterdir()
    assert str(kept) in line
    assert ("MainThread" in kept.read_text() or NO_STACKS in kept.read_text()) == silent

    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(lost.engine.describe.remote(), timeout=WAIT_S)
    setup.wait(lambda: len(setup.fleet.answering()) == 3)
    assert len(setup.fleet.serving().members) == 2  # the new one waits for the next push
    setup.push()
    assert len(setup.fleet.serving().members) == 3


def test_where_all_are_lost_only_a_push_helps(make: Callable[..., Setup]) -> None:
    setup = make(2)
    setup.push()
    setup.strike(signal.SIGKILL, most=2)
    with pytest.raises(NobodyServesError):
        setup.pool.generate(request())
    setup.wait(lambda: len(setup.fleet.answering()) == 2)
    with pytest.raises(NobodyServesError):
        setup.pool.generate(request())
    setup.push()
    assert len(setup.pool.generate(request()).prompt) == PROMPTS


def test_before_the_first_push_the_next_process_is_waited_for_but_not_for_ever(make: Callable[..., Setup]) -> None:
    setup = make(1)
    for _ in range(STRIKES - 1):
        setup.wait(lambda: bool(setup.fleet.serving().members))
        setup.strike(signal.SIGKILL, most=1)
        assert len(setup.pool.generate(request()).prompt) == PROMPTS
    setup.strike(signal.SIGKILL, most=1)
    with pytest.raises(UserError, match=r"engine 0 died while it was asked for lists, 3 times .* run the same command"):
        setup.pool.generate(request())
