"""Publishing weights to engines; the connection is a double here (the real one: tests/weights, tests/training)."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import ray
import torch

from blade_dist.batches import Ragged
from blade_dist.learners.packing import PromptLists
from blade_dist.rollouts.fleet import Member, Push
from blade_dist.rollouts.health import Life
from blade_dist.rollouts.limits import Task
from blade_dist.rollouts.pool import EnginePool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.settings import RolloutSettings
from blade_dist.training.publish import Publisher, ServedModel
from blade_dist.weights.answers import Lost
from blade_dist.weights.gather import Bucket
from blade_dist.weights.push import WeightPushError
from tests.helpers.ranks import make_imitated, nothing

PROMPTS = 6


class Connection:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.closed = False

    def begin(self, version: tuple[int, int]) -> None:
        self.sent.append(f"weights {version}")

    def send(self, bucket: Bucket) -> None:
        self.sent += [name for name, _ in bucket]

    def finish(self, version: tuple[int, int]) -> list[dict[str, float]]:
        return []

    def close(self) -> None:
        self.closed = True

    lost: ClassVar[dict[int, Lost]] = {}


class Engines:
    """A pool of engines whose lives end when told, in the push or the probe; each start is a new life of one place."""

    settings = RolloutSettings()

    def __init__(self) -> None:
        self.pushes: list[list[int]] = []
        self.proved: list[int] = []
        self.reported: list[tuple[str, int]] = []
        self.dies_in_probe: list[int] = []

    def begin_push(self, step: int, wait_s: float) -> Push:
        life = Life(0, 1 + len(self.reported))
        self.pushes.append([life.number])
        engine = SimpleNamespace(digests=SimpleNamespace(remote=lambda: ray.put({})))
        return Push(len(self.pushes), [Member(life, engine)], None)

    def call(self, members: list[Member], verb: str, *_: Any, task: Task) -> dict[Life, Any]:
        assert (verb, task) == ("generate", "probe")
        died = [member for member in members if member.life.number in self.dies_in_probe]
        for member in died:
            self.lost(member.life, task, 0.0, Lost(silent=False))
        return {member.life: make_imitated(PROMPTS) for member in members if member not in died}

    def lost(self, life: Life, task: Task, since: float, how: Lost) -> None:
        self.reported.append((task, life.number))

    def proven(self, push: int, members: list[Member]) -> None:
        self.proved += [member.life.number for member in members]


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> Connection:
    """Engines that answer the probe with log-probs of one set of lists."""
    connection = Connection()
    monkeypatch.setattr("blade_dist.weights.push.sending_end", lambda *_: connection)
    return connection


def publisher(engines: Engines | None = None) -> Publisher:
    rows = np.arange(PROMPTS)
    probe = RolloutRequest(rows, Ragged.of([[2, 3]] * PROMPTS), nothing(PROMPTS), rows, 1, 1.0)
    return Publisher(cast(EnginePool, engines or Engines()), "gloo", probe, None, tolerance=0.5)


def model(name: str, off_by: float) -> ServedModel:
    """One parameter, and log-probs that differ from the engines' by ``off_by``."""

    def buckets() -> Iterator[Bucket]:
        yield [(name, torch.ones(2))]

    def logprobs(sequences: PromptLists) -> torch.Tensor:
        assert len(sequences) == PROMPTS
        return torch.from_numpy(make_imitated(PROMPTS).logprobs) + off_by

    return ServedModel(buckets, logprobs)


def test_one_connection_serves_several_models(connection: Connection) -> None:
    with publisher() as engines:
        gaps = [engines.publish((1, step), model(f"p{step}", 0.1 * step)).gap for step in range(3)]
        assert not connection.closed
    assert gaps == pytest.approx([0, 0.1, 0.2], abs=1e-6)
    assert connection.sent == [part for step in range(3) for part in (f"weights {(1, step)}", f"p{step}")]
    assert connection.closed


def test_the_connection_is_closed_where_the_gap_is_too_large(connection: Connection) -> None:
    with (
        pytest.raises(WeightPushError, match=r"differ from the learner's by 0\.6 \(at most 0\.5\)"),
        publisher() as engines,
    ):
        engines.publish((0, 1), model("p", 0.6))
    assert connection.closed


def test_an_engine_that_dies_before_it_is_proved_never_serves(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first life dies in the push, the second in the probe; the third gets the weights anew, and is proved."""
    engines = Engines()
    engines.dies_in_probe = [2]
    monkeypatch.setattr(
        Connection, "lost", property(lambda _: {} if engines.reported else {0: Lost(silent=True)}), raising=True
    )
    with publisher(engines) as publishing:
        publishing.publish((1, 4), model("p", 0.1))
    assert engines.reported == [("push", 1), ("probe", 2)]
    assert (engines.pushes, engines.proved) == ([[1], [2], [3]], [3])
    assert connection.sent == ["weights (1, 4)", "p"] * 3
