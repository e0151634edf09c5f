"""``blade-dist prior``: M reference lists per training prompt (fewer for cold ones), scored: the static prior."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from blade_dist.batches import ranges
from blade_dist.cluster.placement import place_here
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.seeds import stable_seed
from blade_dist.errors import UserError
from blade_dist.posterior.prior import Prior, PriorWriter
from blade_dist.posterior.ties import ties
from blade_dist.rewards.composite import spreads
from blade_dist.rollouts.pool import EnginePool
from blade_dist.settings import Config, ListSettings
from blade_dist.stages.inputs import Inputs, check_inputs, engines, scorer
from blade_dist.store.fingerprint import fingerprint
from blade_dist.training.prompter import Prompter

CHUNK = 256
"""Prompts between two saves."""

PILOT = 256
"""Prompts whose lists say how much each metric differs, where the reward is normalised."""


def prior_stage(config: Config, console: Console) -> None:
    """Builds ``prior.arrow``, or goes on where it was stopped; skipped where it is whole."""
    inputs, config = check_inputs(config), config.in_training
    if has_prior(config, inputs):
        console.print(f"prior: {inputs.paths.prior} is already there")
        show_prior(config, inputs, console)
        return
    with (
        ray_runtime(config),
        engines(config, inputs.paths, inputs.paths.reference, place_here(config, learners=False).engines) as pool,
        scorer(config, inputs.paths, "train") as reward,
    ):
        build_prior(config, inputs, pool, reward, console)
    show_prior(config, inputs, console)


def prior_stamp(config: Config, inputs: Inputs) -> dict[str, Any]:
    """What the prior depends on; compared before it is used."""
    cold: dict[str, Any] = {"cold_size": config.prior.cold_size} if config.prior.cold_size else {}
    if len(warm := warm_prompts(config, inputs.rows)) < len(inputs.rows):
        cold["choice of warm prompts"] = fingerprint(warm.tolist())
    return cold | {
        "reference": inputs.reference.weights,
        "catalog": inputs.data.catalog.fingerprint(),
        "split": inputs.data.train.fingerprint(),
        "reward": inputs.composite.fingerprint(),
        "k": config.in_training.lists.k,
        "temperature": config.rollout.temperature,
        "constraint": _constraint(config.lists),
        "size": config.prior.size,
        "prompts": config.prior.prompts,
        "normalise": config.reward.normalise or None,
        "constrained": sorted(config.reward.constrained) or None,
    }


def _constraint(lists: ListSettings) -> str:
    """Which lists are legal, in words; rules by a digest, as they may name many items."""
    rules = fingerprint(sorted(set(lists.exclude)), lists.at_most) if lists.exclude or lists.at_most else None
    history = {True: "nothing seen", "shown": "nothing shown", False: "anything seen"}[lists.exclude_history]
    return f"{lists.constrain}, {history}" + (f", rules {rules}" if rules else "")


def warm_prompts(config: Config, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The prompts of ``rows`` that get all reference lists; the others are cold."""
    if config.prior.prompts is None or config.prior.prompts >= len(rows):
        return rows
    rng = np.random.default_rng(stable_seed(config.run.seed, "warm prompts"))
    return np.sort(rng.choice(rows, config.prior.prompts, replace=False))


def pilot_prompts(seed: int, rows: NDArray[np.int64], users: NDArray[np.int64]) -> NDArray[np.int64]:
    """:data:`PILOT` of the prompts, or all, drawn at random; a second one of a user where every user has a first.

    Args:
        seed: the run's seed.
        rows: ``[P]`` the prompts.
        users: ``[P]`` a number of each one's user.

    Returns:
        int64 ``[min(P, PILOT)]``, ascending.
    """
    shuffled = np.random.default_rng(stable_seed(seed, "pilot")).permutation(len(rows))
    by_user = np.argsort(users[shuffled], kind="stable")
    first = np.flatnonzero(np.diff(users[shuffled][by_user], prepend=-1))
    visit = np.empty(len(rows), dtype=np.int64)
    visit[by_user] = ranges(0, np.diff(first, append=len(rows)))
    return np.sort(rows[shuffled[np.argsort(visit, kind="stable")[:PILOT]]])


def has_prior(config: Config, inputs: Inputs) -> bool:
    """Whether a whole prior of this run is there.

    Raises:
        UserError: one made from another reference, catalog, reward, ... is.
    """
    if not inputs.paths.prior.is_file():
        return False
    prior = Prior.load(inputs.paths.prior, prior_stamp(config, inputs))
    return not len(np.setdiff1d(inputs.rows, prior.prompts))


def show_prior(config: Config, inputs: Inputs, console: Console) -> None:
    """Says how far the reference lists of a whole prior differ.

    Raises:
        UserError: the reward is the same for all of them.
    """
    rewards = Prior.load(inputs.paths.prior, prior_stamp(config, inputs)).rewards
    found = ties(rewards)
    if not np.nanmax(rewards) > np.nanmin(rewards):
        raise UserError(
            f"reward.weights: each of the {found.lists} reference lists of {found.prompts} prompts has a reward of "
            f"{found.mean:g}: there is nothing to be learnt from that; take another reward, or a better reference "
            "(more of sft.epochs)"
        )
    console.print(f"prior: {found}", highlight=False, soft_wrap=True)


def reward_scales(config: Config, inputs: Inputs) -> dict[str, float]:
    """What each metric is divided by before it is weighed; empty without ``reward.normalise``.

    Raises:
        UserError: no prior says so yet.
    """
    if not config.reward.normalise:
        return {}
    if not has_prior(config, inputs):
        raise UserError(f"reward.normalise: {inputs.paths.prior} would say the scales; run `blade-dist prior` first")
    return Prior.load(inputs.paths.prior, prior_stamp(config, inputs)).scales


def build_prior(config: Config, inputs: Inputs, pool: EnginePool, reward: Any, console: Console) -> None:
    """Samples, scores and saves, a chunk of prompts at a time. The engines must serve the reference.

    Raises:
        UserError: a metric with a weight that is to be normalised and is the same in all of a pilot's lists.
    """
    writer = PriorWriter(inputs.paths.prior, prior_stamp(config, inputs))
    constrained = config.reward.constrained
    warm = warm_prompts(config, inputs.rows)
    prompter = Prompter(inputs.data.train, inputs.data.codec, config.run.seed, config.lists.exclude_history)

    def lists(rows: NDArray[np.int64], size: int = config.prior.size) -> Any:
        return reward.score.remote(pool.generate(prompter.request(rows, size, config.rollout.temperature, "prior")))

    if config.reward.normalise and not writer.scales:
        pilot = pilot_prompts(config.run.seed, warm, inputs.data.train.user_numbers(warm))
        parts = ray.get(lists(pilot)).parts
        writer.scales = spreads({name: parts[name] for name, weight in config.reward.weights.items() if weight})
    ray.get(reward.rescale.remote(writer.scales))
    cold = np.setdiff1d(inputs.rows, warm)
    if not config.prior.cold_size and len(unknown := np.setdiff1d(cold, writer.done())):
        nothing = np.full((len(unknown), config.prior.size), np.nan)
        writer.add(unknown, nothing, dict.fromkeys(constrained, nothing))
    done = writer.done()
    missing = [*_chunks(warm, done, config.prior.size), *_chunks(cold, done, config.prior.cold_size)]
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("prior", total=len(inputs.rows), completed=len(done))
        for rows, size in missing:
            rewards = ray.get(lists(rows, size))
            writer.add(rewards.prompt, rewards.total, {name: rewards.parts[name] for name in constrained})
            progress.advance(task, len(rows))
    writer.finish()


def _chunks(prompts: NDArray[np.int64], done: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The prompts that are not done, :data:`CHUNK` at a time, and how many lists each gets."""
    missing = np.setdiff1d(prompts, done)
    for start in range(0, len(missing), CHUNK):
        yield missing[start : start + CHUNK], size
