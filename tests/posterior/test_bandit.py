"""The method on a bandit: what the static prior cannot tell apart, the posterior can."""

from __future__ import annotations

import numpy as np

from blade_dist.posterior.advantage import group_advantage, informative
from blade_dist.posterior.beta import BetaSettings
from blade_dist.posterior.targets import TARGETS
from blade_dist.posterior.targets.target import Groups

PROMPTS, ITEMS, REFERENCE, GROUP, STEPS = 64, 60, 16, 8, 150
LEARNING_RATE, KL_COEF = 0.1, 1 / 15


def draw(rng: np.random.Generator, policy: np.ndarray, size: int) -> np.ndarray:
    """``[P, size]`` items of each row's distribution."""
    return (rng.random((len(policy), size, 1)) > policy.cumsum(axis=1)[:, None, :-1]).sum(axis=2)


def gradient(policy: np.ndarray, reference: np.ndarray, items: np.ndarray, advantage: np.ndarray) -> np.ndarray:
    """Of ``KL_COEF * KL(policy || reference) - mean(advantage * log policy(items))`` by the logits."""
    chosen = np.zeros_like(policy)
    np.add.at(chosen, (np.arange(PROMPTS)[:, None], items), advantage)
    ratio = np.log(policy / reference)
    divergence = policy * (ratio - (policy * ratio).sum(axis=1, keepdims=True))
    return (KL_COEF * divergence - (chosen - chosen.sum(axis=1, keepdims=True) * policy) / GROUP) / PROMPTS


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def align(target: str) -> tuple[float, np.ndarray]:
    """A softmax policy per prompt, aligned with Adam; mean NDCG at the end, and how many of each step's groups
    that hold different rewards are informative."""
    rng = np.random.default_rng(0)
    ndcg = 1 / np.log2(rng.permuted(np.tile(np.arange(ITEMS), (PROMPTS, 1)), axis=1) + 2)
    logits = rng.normal(size=(PROMPTS, ITEMS))
    reference = softmax(logits)
    prior = np.take_along_axis(ndcg, draw(rng, reference, REFERENCE), axis=1)
    settings = BetaSettings(tau=0.3, strength=REFERENCE)
    first, second, shares = np.zeros_like(logits), np.zeros_like(logits), np.zeros(STEPS)
    for step in range(STEPS):
        policy = softmax(logits)
        items = draw(rng, policy, GROUP)
        rewards = np.take_along_axis(ndcg, items, axis=1)
        proxy = TARGETS[target].proxy(Groups(rewards, prior, settings))
        shares[step] = informative(proxy).sum() / informative(rewards).sum()
        slope = gradient(policy, reference, items, group_advantage(proxy, "std"))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        unbiased = second / (1 - 0.999 ** (step + 1))
        logits = logits - LEARNING_RATE * first / (1 - 0.9 ** (step + 1)) / (np.sqrt(unbiased) + 1e-8)
    return float((softmax(logits) * ndcg).sum(axis=1).mean()), shares


def test_static_stalls_where_blade_does_not() -> None:
    (static, static_shares), (blade, blade_shares) = align("static"), align("blade")
    assert (blade_shares == 1).all()
    assert static_shares[:5].min() > 0.9
    assert static_shares[-50:].mean() < 0.5
    assert blade > static + 0.05
