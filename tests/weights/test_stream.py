"""The stream between learner and engines, with a plain actor in the engine's place: contents, changes, failures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import ray
import torch

from blade_dist.weights.answers import Lost
from blade_dist.weights.digest import digests, first_difference
from blade_dist.weights.gather import Bucket
from blade_dist.weights.gloo import GlooReceiver
from blade_dist.weights.push import WeightPusher
from blade_dist.weights.stream import Announcement
from blade_dist.weights.wire import bucket_bytes, describe_bucket, pack, pieces, unpack


@ray.remote(num_cpus=0)
class Receiver:
    """Takes pushes and keeps what arrived; fails at a parameter of the name ``bad``."""

    _signal: int | None = None

    def describe(self) -> dict:
        return {"node_ip": ray.util.get_node_ip_address(), "world_size": 1}

    def connect(self, transport: str, info: dict) -> None:
        self._end: GlooReceiver | None = GlooReceiver(info, 0)

    def update(self, version: tuple[int, int], first: Announcement) -> dict[str, float]:
        self._digests: dict = {}
        assert self._end is not None
        try:
            for piece in self._end.stream(first):
                load(piece)
                if self._signal is not None:
                    os.kill(os.getpid(), self._signal)
                self._digests.update(digests(piece))
        except BaseException:
            self._end = None
            raise
        return {"receive": 1.0}

    def digests(self) -> dict:
        return self._digests

    def signal_in_update(self, number: int) -> None:
        """Does this to itself at the first piece of the next push."""
        self._signal = number


def load(piece: Bucket) -> None:
    if any(name == "bad" for name, _ in piece):
        raise ValueError("no such layer")


def tensors(number: int, size: int = 1000) -> Bucket:
    kinds = [torch.float32, torch.bfloat16, torch.int8]
    return [(f"p{i}", torch.randn(size + i, 3).to(kinds[i % 3])) for i in range(number)]


class Learner:
    """What a pusher sends."""

    def __init__(self, buckets: list[Bucket], engines: int = 2, timeout_s: float = 60.0) -> None:
        self.buckets, self.engines = buckets, [Receiver.remote() for _ in range(engines)]
        ray.get([engine.describe.remote() for engine in self.engines])
        self.pusher = WeightPusher(self.engines, "gloo", self.iterate, 0, lambda: None, timeout_s)
        self.pusher._end.piece_bytes = 20_000

    def iterate(self) -> Iterator[Bucket]:
        yield from self.buckets

    def check(self) -> None:
        sent = {name: value for bucket in self.buckets for name, value in digests(bucket).items()}
        for arrived in ray.get([engine.digests.remote() for engine in self.engines]):
            assert arrived == sent


def test_all_arrives_and_later_pushes_may_differ(ray_session: None) -> None:
    learner = Learner([tensors(7)])
    report = learner.pusher.push((0, 1))
    assert not any(buffer.works for buffer in learner.pusher._end._buffers)  # nothing travels any more
    assert report.bytes == sum(t.numel() * t.element_size() for _, t in learner.buckets[0])
    assert {"gather", "send", "finish", "engine receive"} <= set(report.parts)
    learner.check()
    for buckets in ([tensors(7)], [tensors(3), tensors(9, 50)[3:]], [tensors(1)], []):
        learner.buckets = buckets
        learner.pusher.push((0, 2))
        learner.check()


def test_an_engine_that_fails_says_why_at_once(ray_session: None) -> None:
    learner = Learner([[("bad", torch.zeros(10_000)), *tensors(60, 100_000)]])
    started = time.monotonic()
    with pytest.raises(ValueError, match="no such layer"):
        learner.pusher.push((0, 1))
    assert time.monotonic() - started < 60  # the group's deadline is 120 s


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_is_lost_in_a_push_is_left_out(ray_session: None, number: int) -> None:
    learner = Learner([tensors(20, 50_000), tensors(5)], engines=3, timeout_s=10.0)
    lost, *left = learner.engines
    ray.get(lost.signal_in_update.remote(number))
    report = learner.pusher.push((0, 1))
    assert learner.pusher.lost == {0: Lost(silent=number == signal.SIGSTOP)}
    assert report.bytes == sum(t.numel() * t.element_size() for bucket in learner.buckets for _, t in bucket)
    learner.engines = left
    learner.check()
    learner.pusher.push((0, 2))
    learner.check()
    ray.kill(lost)


def test_a_learner_that_fails_sets_the_engines_free(ray_session: None) -> None:
    learner = Learner([tensors(9)])

    def breaking() -> Iterator[Bucket]:
        yield tensors(9)
        raise OSError("gone")

    learner.pusher._buckets = breaking
    with pytest.raises(OSError, match="gone"):
        learner.pusher.push((0, 1))
    with pytest.raises(RuntimeError):
        ray.get(list(learner.pusher._end._updates.values()), timeout=60)


def test_pieces_keep_order_and_size() -> None:
    bucket = tensors(20)
    cut = list(pieces(bucket, 20_000))
    assert [name for piece in cut for name, _ in piece] == [name for name, _ in bucket]
    assert len(cut) > 1
    assert all(len(piece) == 1 or bucket_bytes(describe_bucket(piece)) < 21_000 for piece in cut)
    assert list(pieces([], 1)) == []


def test_pack_is_undone() -> None:
    bucket = [
        *tensors(5),
        ("scalar", torch.tensor(3.0)),
        ("empty", torch.empty(0, 4)),
        ("turned", torch.randn(3, 5).t()),
    ]
    back = unpack(pack(bucket), describe_bucket(bucket))
    for (name, tensor), (other, unpacked) in zip(bucket, back, strict=True):
        assert name == other
        torch.testing.assert_close(unpacked, tensor, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1,), (3,), (7, 5), (576, 256), (1024, 9), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_digest_sees_a_change_and_a_swap(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape).to(dtype)
    same = digests([("a", tensor)])
    assert digests([("a", torch.cat([tensor.new_zeros(1), tensor.reshape(-1)])[1:].view(shape))]) == same
    if tensor.numel() > 1:
        changed = tensor + (torch.arange(tensor.numel()) == 1).view(shape).to(dtype)
        for other in (changed, tensor.reshape(-1).roll(1)):
            assert first_difference(same, digests([("a", other)])) == "a"
    assert first_difference({"b": (0, 0)}, same) == "b"
