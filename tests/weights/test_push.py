"""The push on the real stack: a vLLM engine in a Ray actor, gloo between, and the probe that proves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from blade_dist.catalog.legality import Legality
from blade_dist.cluster.placement import place_here
from blade_dist.data.bundle import DataBundle
from blade_dist.learners.adapter import add_adapter, without_adapter
from blade_dist.learners.packing import PromptLists
from blade_dist.learners.policy import Policy, load_model, sequence_logprobs
from blade_dist.rollouts.pool import EnginePool, RunningPool
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.rollouts.spec import EngineSpec
from blade_dist.settings import Config, LoraSettings
from blade_dist.store.context import context_length
from blade_dist.store.run import RunPaths
from blade_dist.training.probe import probe_gap
from blade_dist.training.prompter import Prompter
from blade_dist.weights.gather import Bucket, parameter_buckets
from blade_dist.weights.push import WeightPusher
from tests.helpers.runs import random_policy

SMALL_BUCKET = 8 * 2**10
TOLERANCE = 1e-4


class Setup:
    """A running engine, another policy than the one that it started from, and a probe."""

    def __init__(
        self, pool: EnginePool, policy: Policy, pad: int, probe: RolloutRequest, legality: Legality | None
    ) -> None:
        self.pool, self.policy, self.pad, self.probe, self.legality = pool, policy, pad, probe, legality

    def logprobs(self, sequences: PromptLists) -> torch.Tensor:
        return sequence_logprobs(self.policy, sequences, self.pad, 10_000, shared=False)

    def gap(self) -> float:
        answers = ray.get([engine.generate.remote(self.probe) for engine in self.pool.engines])
        return probe_gap(answers, self.probe, self.logprobs, self.legality)

    def buckets(self) -> Iterator[Bucket]:
        return parameter_buckets(self.policy.model, SMALL_BUCKET)

    def pusher(self, buckets: object = None) -> WeightPusher:
        return WeightPusher(self.pool.engines, "gloo", buckets or self.buckets, rank=0, barrier=lambda: None)


@contextmanager
def running(
    config: Config, data: DataBundle, folder: Path, tied: bool, lora: LoraSettings | None = None
) -> Iterator[Setup]:
    start = random_policy(config, data, folder / "start", tied, seed=0)
    other = random_policy(config, data, folder / "other", tied, seed=7)
    paths = RunPaths(config.run.dir)
    probe = Prompter(data.train, data.codec, 0, True).request(np.arange(4), 1, 1.0, "probe")
    policy = Policy(load_model(start if lora else other, config.model), 1.0)
    if lora is not None:
        add_adapter(policy.model, lora)
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, 0, 0.1)
    spec = EngineSpec.of(config, start, paths, context_length(start), lora=lora)
    with RunningPool(config, spec, place_here(config, learners=False).engines) as pool:
        legality = Legality.load(config.lists, data.codec, paths.trie, paths.catalog)
        yield Setup(pool, policy, data.codec.pad, probe, legality)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def setup(
    request: pytest.FixtureRequest, tiny_config: Config, tiny_data: DataBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setup]:
    with running(tiny_config, tiny_data, tmp_path_factory.mktemp("push"), tied=request.param) as ready:
        yield ready


def test_before_a_push_the_probe_sees_other_weights(setup: Setup) -> None:
    assert setup.gap() > 10 * TOLERANCE
    assert setup.pool.generate(setup.probe).version.tolist() == [[0, 0]] * 4  # of no attempt: learners refuse its lists


def test_a_skipped_push_is_named(setup: Setup) -> None:
    pusher = setup.pusher()
    error = pusher.diagnose(setup.gap(), TOLERANCE)
    pusher.push((1, 1))
    first = next(iter(dict(setup.policy.model.named_parameters())))
    with torch.no_grad():
        dict(setup.policy.model.named_parameters())[first].add_(0.5)  # the learner steps; nobody pushes
    skipped = pusher.diagnose(setup.gap(), TOLERANCE)
    with torch.no_grad():
        dict(setup.policy.model.named_parameters())[first].sub_(0.5)
    assert "differ from the learner's" in str(error)
    assert f"parameter {first} arrived changed at engine 0" in str(skipped)


def test_a_push_makes_them_equal(setup: Setup) -> None:
    report = setup.pusher().push((1, 2))
    assert setup.gap() < TOLERANCE
    assert report.bytes == sum(p.numel() * 4 for p in setup.policy.model.parameters())


def test_rollouts_carry_the_version(setup: Setup) -> None:
    setup.pusher().push((3, 5))
    rollouts = setup.pool.generate(setup.probe)
    assert rollouts.version.tolist() == [[3, 5]] * 4


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.weight"])
def test_a_corrupted_parameter_is_named(setup: Setup, name: str) -> None:
    def corrupted() -> Iterator[Bucket]:
        for bucket in setup.buckets():
            yield [(n, t + 0.3 if n == name else t) for n, t in bucket]

    pusher = setup.pusher(corrupted)
    pusher.push((1, 3))
    gap = setup.gap()
    assert gap > TOLERANCE
    pusher._buckets = setup.buckets  # what the learner really holds
    assert f"parameter {name} arrived changed at engine 0" in str(pusher.diagnose(gap, TOLERANCE))


def test_a_missing_parameter_is_named(setup: Setup) -> None:
    name = "model.layers.0.mlp.down_proj.weight"

    def incomplete() -> Iterator[Bucket]:
        for bucket in setup.buckets():
            if others := [(n, t) for n, t in bucket if n != name]:
                yield others

    setup.pusher().push((1, 4))
    with torch.no_grad():
        for parameter in setup.policy.model.parameters():
            parameter.mul_(1.5)
    pusher = setup.pusher(incomplete)
    pusher.push((1, 5))
    gap = setup.gap()
    assert gap > TOLERANCE
    pusher._buckets = setup.buckets
    assert f"parameter {name} did not arrive at engine 0" in str(pusher.diagnose(gap, TOLERANCE))


def test_same_seed_same_lists(setup: Setup) -> None:
    first, second = setup.pool.generate(setup.probe), setup.pool.generate(setup.probe)
    np.testing.assert_array_equal(first.tokens.flat, second.tokens.flat)
    np.testing.assert_array_equal(first.digests(), second.digests())


@pytest.fixture(scope="module")
def adapted(tiny_config: Config, tiny_data: DataBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    lora = LoraSettings(rank=8, alpha=24)
    with running(tiny_config, tiny_data, tmp_path_factory.mktemp("adapted"), tied=True, lora=lora) as ready:
        yield ready


def test_an_adapter_is_all_that_is_pushed(adapted: Setup) -> None:
    with without_adapter(adapted.policy.model):
        assert adapted.gap() < TOLERANCE  # before the first push the engine serves the reference
    assert adapted.gap() > 10 * TOLERANCE
    pusher = adapted.pusher()
    for version in (1, 2):
        with torch.no_grad():
            for _, parameter in (pair for bucket in adapted.buckets() for pair in bucket):
                parameter.mul_(1.2)
        report = pusher.push((0, version))
        assert adapted.gap() < TOLERANCE
    assert report.bytes == sum(p.numel() * 4 for p in adapted.policy.model.parameters() if p.requires_grad)
    assert adapted.pool.generate(adapted.probe).version.tolist() == [[0, 2]] * 4


def test_a_corrupted_adapter_is_named(adapted: Setup) -> None:
    name = "model.layers.1.mlp.up_proj.lora_B.weight"

    def corrupted() -> Iterator[Bucket]:
        for bucket in adapted.buckets():
            yield [(n, t + 0.3 if n == name else t) for n, t in bucket]

    pusher = adapted.pusher(corrupted)
    pusher.push((1, 3))
    gap = adapted.gap()
    assert gap > TOLERANCE
    pusher._buckets = adapted.buckets
    assert f"parameter {name} arrived changed at engine 0" in str(pusher.diagnose(gap, TOLERANCE))


def load_layer_by_layer(worker: Any) -> None:
    from blade_dist.weights.load import LayerwiseLoader

    worker._blade_loader = LayerwiseLoader(worker.model_runner.model, worker.vllm_config, worker.device)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loader_of_all_other_engines_serves_what_arrived(
    tiny_config: Config, tiny_data: DataBundle, tmp_path: Path, tied: bool
) -> None:
    """GPUs and quantized models take vLLM's layer-wise reload; from a stream whose buffers are used again."""
    with running(tiny_config, tiny_data, tmp_path, tied) as setup:
        (engine,) = setup.pool.engines
        ray.get(engine.__ray_call__.remote(lambda self: self._llm.collective_rpc(load_layer_by_layer)))
        pusher = setup.pusher()
        for version in (1, 2):
            with torch.no_grad():
                for parameter in setup.policy.model.parameters():
                    parameter.mul_(1.1)
            pusher.push((0, version))
            assert setup.gap() < TOLERANCE
        assert engine_digests(setup) == {n for n, _ in setup.policy.model.named_parameters()}


def engine_digests(setup: Setup) -> set[str]:
    return set(ray.get(setup.pool.engines[0].digests.remote()))
