"""The objective and the schedule: what can be checked on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blade_dist.learners.objective import learning_rate, policy_terms

NUMBERS = {"clip_ratio": 0.2, "truncation": 2.0, "kl_coef": 0.0}


def terms(
    logprob: list[float], prox: list[float], rollout: list[float], advantage: list[float], **changed: float
) -> object:
    tensors = [torch.tensor(values, dtype=torch.float64) for values in (prox, rollout, logprob, advantage)]
    policy = torch.tensor(logprob, dtype=torch.float64, requires_grad=True)
    return policy, policy_terms(policy, *tensors, **{**NUMBERS, **changed})  # type: ignore[arg-type]


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    policy, result = terms([-1.0, -2.0], [-1.0, -2.0], [-1.0, -2.0], [0.5, -3.0])
    result.loss.sum().backward()
    torch.testing.assert_close(policy.grad, torch.tensor([-0.5, 3.0], dtype=torch.float64))


def test_the_clip_stops_only_what_goes_too_far() -> None:
    far, near = np.log(1.5), np.log(1.1)
    policy, result = terms([far, far, near], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0])
    result.loss.sum().backward()
    assert result.clipped.tolist() == [1, 0, 0]
    torch.testing.assert_close(policy.grad, torch.tensor([0.0, 1.5, -1.1], dtype=torch.float64))


def test_stale_samples_weigh_at_most_c() -> None:
    policy, result = terms([0.0, 0.0], [0.0, 0.0], [-np.log(1.5), -np.log(7.0)], [1.0, 1.0])
    assert result.weight.tolist() == pytest.approx([1.5, 2.0])
    result.loss.sum().backward()
    torch.testing.assert_close(policy.grad, torch.tensor([-1.5, -2.0], dtype=torch.float64))


def test_k3_is_an_unbiased_kl() -> None:
    rng = np.random.default_rng(0)
    p, q = (torch.tensor(v / v.sum()) for v in rng.random((2, 6)) + 0.1)
    result = policy_terms(p.log(), p.log(), p.log(), q.log(), torch.zeros(6), **{**NUMBERS, "kl_coef": 1.0})  # type: ignore[arg-type]
    assert (result.kl >= 0).all()
    torch.testing.assert_close((p * result.kl).sum(), (p * (p / q).log()).sum())


def test_without_a_reference_there_is_no_kl() -> None:
    p, advantage = torch.tensor([-1.0, -2.0]), torch.tensor([0.5, -3.0])
    alone = policy_terms(p, p, p, None, advantage, clip_ratio=0.2, truncation=2.0, kl_coef=0.0)
    beside = policy_terms(p, p, p, p - 1, advantage, clip_ratio=0.2, truncation=2.0, kl_coef=0.0)
    assert alone.kl is None
    assert torch.equal(alone.loss, beside.loss)


def test_schedules() -> None:
    def rates(schedule: str, warmup: int = 0) -> list[float]:
        return [learning_rate(s, peak=1.0, total=4, warmup=warmup, schedule=schedule) for s in range(4)]

    assert rates("constant") == [1, 1, 1, 1]
    assert rates("linear") == [1, 0.75, 0.5, 0.25]
    assert rates("cosine") == pytest.approx([1, 0.8536, 0.5, 0.1464], abs=1e-4)
    assert rates("linear", warmup=2) == pytest.approx([1 / 3, 2 / 3, 1, 0.5])
