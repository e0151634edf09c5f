"""The anchor: an average that follows the policy's weights, also in bfloat16, and survives on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from blade_dist.learners.anchor import Anchor, move_towards
from blade_dist.learners.policy import Policy, build_model
from blade_dist.settings import BuildSettings, ModelSettings
from blade_dist.weights.gather import Bucket, parameter_buckets

BUILD = BuildSettings(hidden_size=64, layers=1, heads=2, kv_heads=1, ffn_size=48, context=64)
ETA = 0.02


def policy(dtype: str, seed: int) -> Policy:
    torch.manual_seed(seed)
    return Policy(build_model(ModelSettings.model_validate({"dtype": dtype, "build": BUILD}), 64, 0, 1), 1.0)


def weights(of: Policy) -> Bucket:
    return [(name, parameter.detach().clone()) for name, parameter in of.model.named_parameters()]


@given(st.floats(0.01, 1), st.integers(1, 40))
def test_the_distance_to_a_policy_that_stands_still_shrinks_geometrically(eta: float, steps: int) -> None:
    anchor, still = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.0])
    for _ in range(steps):
        move_towards(anchor, still, eta)
    torch.testing.assert_close(anchor, still.double() * (1 - (1 - eta) ** steps))


@pytest.mark.parametrize(("dtype", "digit"), [("float32", 1e-6), ("bfloat16", 2**-7)])
def test_steps_smaller_than_the_last_digit_add_up(dtype: str, digit: float) -> None:
    start, learner = policy(dtype, 0), policy(dtype, 0)
    before = dict(weights(start))
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.mul_(1.0625)
    anchor = Anchor(start, ETA)
    for _ in range(60):
        anchor.follow(parameter_buckets(learner.model, 2**12))
    expected = 1 + 0.0625 * (1 - (1 - ETA) ** 60)
    for name, moved in weights(anchor.policy):
        assert moved.dtype == before[name].dtype
        torch.testing.assert_close(moved.float(), expected * before[name].float(), rtol=digit, atol=digit / 1000)


def test_it_is_saved_with_all_its_digits(tmp_path: Path) -> None:
    learner, anchor, restored = policy("bfloat16", 1), *(Anchor(policy("bfloat16", 0), ETA) for _ in range(2))
    anchor.follow(parameter_buckets(learner.model, 2**30))
    copied = anchor.copy()
    anchor.follow(parameter_buckets(learner.model, 2**30))  # what was copied stays as it was
    save_file(copied, tmp_path / "anchor")
    restored.load(tmp_path / "anchor")
    for each, more in ((anchor, 2), (restored, 3)):
        for _ in range(more):
            each.follow(parameter_buckets(learner.model, 2**30))
    untouched = dict(weights(policy("bfloat16", 0)))
    for (name, one), (_, other) in zip(weights(anchor.policy), weights(restored.policy), strict=True):
        assert torch.equal(one, other)
        assert "norm" in name or not torch.equal(one, untouched[name])


def test_a_push_sends_all_of_it() -> None:
    anchor = Anchor(policy("float32", 0).requires_grad_(False), ETA)
    sent = [name for bucket in parameter_buckets(anchor.policy.model, 2**30) for name, _ in bucket]
    assert sent == [name for name, _ in weights(anchor.policy)]
