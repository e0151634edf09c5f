"""Proxy rewards per second on one core: through the estimator's actor, as a pure call, and in naive numpy."""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # the goal is per core; inherited by the actor

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import ray
import typer

from benchmarks.report import show, write_result
from blade_dist.batches import Rewards
from blade_dist.posterior.actor import EstimatorActor
from blade_dist.posterior.advantage import group_advantage
from blade_dist.posterior.beta import BetaSettings
from blade_dist.posterior.estimator import Estimator
from blade_dist.posterior.prior import Prior, PriorWriter
from blade_dist.settings import Config

GOAL = 10_000_000
STAMP = {"made": "for the benchmark"}


def naive(rewards: np.ndarray, reference: np.ndarray, settings: BetaSettings) -> np.ndarray:
    """The same proxy reward, written down as it is said."""
    m, s, tau = settings.strength, settings.smoothing, settings.tau
    prior = (reference[:, None, :] <= rewards[:, :, None]).mean(axis=2)
    evidence = (rewards[:, None, :] <= rewards[:, :, None]).mean(axis=2)
    mass = tau * (m + 2 * s) / (1 - tau)
    return np.log((m * prior + s + mass * evidence) / (m + 2 * s + mass))


def rate(count: int, call: Callable[[int], object], repeats: int) -> float:
    """``count`` over the median seconds of a call, after one that warms up."""
    seconds = []
    for number in range(repeats + 1):
        began = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - began)
    return count / statistics.median(seconds[1:])


def main(
    prompts: Annotated[int, typer.Option(help="Prompts per call.")] = 65_536,
    group: Annotated[int, typer.Option(help="Lists per prompt, G.")] = 16,
    reference: Annotated[int, typer.Option(help="Reference lists per prompt, M.")] = 32,
    repeats: Annotated[int, typer.Option(help="Measured calls; the median counts.")] = 7,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Measures the central estimator with its prior memory-mapped.

    Examples:

      python -m benchmarks.posterior --json posterior.json

      python -m benchmarks.posterior --reference 256
    """
    rng = np.random.default_rng(0)
    config = Config.model_validate({"prior": {"size": reference}, "rollout": {"group_size": group}})
    settings = BetaSettings(tau=config.posterior.tau, strength=config.prior_strength)
    digests = np.arange(prompts, dtype=np.uint64)
    rewards = Rewards(np.arange(prompts), rng.random((prompts, group)), {}, digests)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "prior.arrow"
        writer = PriorWriter(path, STAMP)
        writer.add(rewards.prompt, rng.random((prompts, reference)))
        writer.finish()
        prior = Prior.load(path, STAMP)
        pure = Estimator(prior, settings, "blade", "std", carry=0.0)

        def proxies() -> np.ndarray:
            return naive(rewards.total, prior.rewards[prior.where(rewards.prompt)], settings)

        def by_hand(_: int) -> np.ndarray:
            return group_advantage(proxies(), "std")

        expected = proxies()
        difference = float(np.abs(pure.estimate(0, 0, rewards).proxy - expected).max())
        results = {
            "pure_per_second": rate(rewards.total.size, lambda step: pure.estimate(1, step, rewards), repeats),
            "naive_per_second": rate(rewards.total.size, by_hand, repeats),
            "proxy_rewards_per_second": through_actor(path, config, rewards, repeats),
            "largest_difference": difference,
            "goal": GOAL,
        }
    results["ratio_vs_naive"] = results["proxy_rewards_per_second"] / results["naive_per_second"]
    title = f"proxy rewards per second, one core; M = {reference}, G = {group}, {prompts} prompts"
    show(title, results, {"proxy_rewards_per_second": f"{GOAL:,}"})
    write_result(json, "posterior", {"prompts": prompts, "group": group, "reference": reference}, results)


def through_actor(path: Path, config: Config, rewards: Rewards, repeats: int) -> float:
    """Rewards come from the object store, as from the reward actor, and estimates go back to it."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    actor = EstimatorActor.remote(path, STAMP, config)
    ray.get(actor.restore.remote(None, 1))
    there = ray.put(rewards)
    speed = rate(rewards.total.size, lambda step: ray.get(actor.estimate.remote(1, step, there)), repeats)
    ray.shutdown()
    return speed


if __name__ == "__main__":
    typer.run(main)
