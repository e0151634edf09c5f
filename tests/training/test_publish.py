"""Publishing weights to engines; the connection is a double here (the real one: tests/weights, tests/training)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from blade_dist.batches import Ragged
from blade_dist.learners.packing import PromptLists
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.training.publish import Publisher, ServedModel
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


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> Connection:
    """Engines that answer the probe with log-probs of one set of lists."""
    connection = Connection()
    monkeypatch.setattr("blade_dist.weights.push.sending_end", lambda *_: connection)
    monkeypatch.setattr("blade_dist.training.publish.ask_engines", lambda *_: [make_imitated(PROMPTS)])
    return connection


def publisher() -> Publisher:
    rows = np.arange(PROMPTS)
    probe = RolloutRequest(rows, Ragged.of([[2, 3]] * PROMPTS), nothing(PROMPTS), rows, 1, 1.0)
    return Publisher([], "gloo", probe, None, tolerance=0.5)


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
