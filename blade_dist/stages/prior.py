"""``blade-dist prior``: M reference lists per training prompt (fewer for cold ones), scored: the static prior."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from blade_dist.batches import Rewards, ranges
from blade_dist.cluster.placement import place_here
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.seeds import stable_seed
from blade_dist.errors import UserError
from blade_dist.posterior.prior import Prior, PriorWriter
from blade_dist.posterior.ties import ties
from blade_dist.rewards.actor import RewardHandle
from blade_dist.rewards.composite import spreads
from blade_dist.rollouts.pool import EnginePool
from blade_dist.stages.actors import engines
from blade_dist.stages.opened import OpenedRun
from blade_dist.stages.ranker_tables import scorer_of
from blade_dist.tracking.bar import RAY, Bar, waiting
from blade_dist.tracking.say import last_lines, say
from blade_dist.training.prompter import Prompter

CHUNK = 256
"""Prompts between two saves: what an interruption costs at most."""

PILOT = 256
"""Prompts whose lists say how much each metric differs, where the reward is normalised."""


def prior_stage(run: OpenedRun, console: Console) -> Prior:
    """Builds ``prior.arrow``, or goes on where it was stopped; opens it where it is whole.

    Raises:
        UserError: see :func:`open_prior`, :func:`build_prior` and :func:`show_prior`.
    """
    prior = open_prior(run)
    if prior is not None:
        made = "is already there"
    else:
        config, paths = run.config.in_training, run.paths
        with (
            ray_runtime(config, waiting(console, RAY), learners=False),
            engines(
                config, paths, paths.reference, place_here(config, learners=False).engines, console=console
            ) as pool,
            scorer_of(run, pool, "train", run.rows, console) as reward,
        ):
            prior = build_prior(run, pool, reward, console)
        made = f"holds rewards of up to {run.config.prior.size} lists for each of {len(run.rows)} prompts"
    say(last_lines(console), f"prior: {run.paths.prior} {made}")
    show_prior(prior, last_lines(console))
    return prior


def open_prior(run: OpenedRun) -> Prior | None:
    """The run's prior, which is opened here alone; None where there is none yet, or not of every prompt of the run.

    Raises:
        UserError: there is one that was made from another reference, catalog, reward, ...
    """
    if not run.paths.prior.is_file():
        return None
    prior = Prior.load(run.paths.prior, run.prior_stamp)
    return None if len(np.setdiff1d(run.rows, prior.prompts)) else prior


def show_prior(prior: Prior, console: Console) -> None:
    """Says how far the reference lists differ.

    Raises:
        UserError: the reward is the same for all of them.
    """
    found = ties(prior.rewards)
    if not np.nanmax(prior.rewards) > np.nanmin(prior.rewards):
        raise UserError(
            f"reward.weights: each of the {found.lists} reference lists of {found.prompts} prompts has a reward of "
            f"{found.mean:g}: there is nothing to be learnt from that; take another reward, or a better reference "
            "(more of sft.epochs)"
        )
    say(console, f"prior: {found}")


def build_prior(run: OpenedRun, pool: EnginePool, reward: RewardHandle, console: Console) -> Prior:
    """Samples, scores and saves, a chunk of prompts at a time; returns the whole prior.

    Args:
        run: of which the prior is to be.
        pool: engines that serve the reference.
        reward: scores training prompts.
        console: for the progress.

    Raises:
        UserError: a metric with a weight that is to be normalised and is the same in all of a pilot's lists.
    """
    config = run.config.in_training
    train = run.data.train
    writer = PriorWriter(run.paths.prior, run.prior_stamp)
    if run.paths.prior.is_file():
        say(console, f"prior: {run.paths.prior} is of other prompts (train.prompts, run.seed): it is made anew")
    prompter = Prompter(train, run.data.codec, config.run.seed, config.lists.exclude_history)

    def scored(scores: RewardHandle, rows: NDArray[np.int64], size: int) -> Rewards:
        request = prompter.request(rows, size, config.rollout.temperature, "prior")
        return scores.wait(scores.score(pool.generate(request)))

    if config.reward.normalise and not writer.scales:
        pilot = pilot_prompts(config.run.seed, run.warm, train.user_numbers(run.warm))
        parts = scored(reward, pilot, config.prior.size).parts
        writer.scales = spreads({name: parts[name] for name, weight in config.reward.weights.items() if weight})
    reward = reward.rescaled(writer.scales)
    cold, constrained = np.setdiff1d(run.rows, run.warm), config.reward.constrained
    if not config.prior.cold_size and len(unknown := np.setdiff1d(cold, writer.done())):
        nothing = np.full((len(unknown), config.prior.size), np.nan)
        writer.add(unknown, nothing, dict.fromkeys(constrained, nothing))  # a row each, so that the prior is whole
    done = writer.done()
    missing = [*_chunks(run.warm, done, config.prior.size), *_chunks(cold, done, config.prior.cold_size)]
    with Bar("prior", len(run.rows), "prompts", console) as bar:
        bar.at(len(done))
        for rows, size in missing:
            rewards = scored(reward, rows, size)
            writer.add(rewards.prompt, rewards.total, {name: rewards.parts[name] for name in constrained})
            bar.more(len(rows))
    writer.finish()
    return Prior.load(run.paths.prior, run.prior_stamp)


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
    # visit[i]: how many prompts of the same user come before the i-th in the drawn order. Users [A A B A]: [0 1 0 2];
    # sorted by it, every user's first prompt comes before anybody's second
    visit = np.empty(len(rows), dtype=np.int64)
    visit[by_user] = ranges(0, np.diff(first, append=len(rows)))
    return np.sort(rows[shuffled[np.argsort(visit, kind="stable")[:PILOT]]])


def _chunks(prompts: NDArray[np.int64], done: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The prompts that are not done, :data:`CHUNK` at a time, and how many lists each gets."""
    missing = np.setdiff1d(prompts, done)
    for start in range(0, len(missing), CHUNK):
        yield missing[start : start + CHUNK], size
