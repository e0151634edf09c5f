"""Actors that several stages start, and checks that come before any engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from blade_dist.catalog.legality import check_free_items, load_trie, room_for_all
from blade_dist.catalog.rules import make_rules
from blade_dist.cluster.placement import Role
from blade_dist.cluster.runtime import beside_driver
from blade_dist.data.bundle import DataBundle, load_own_data
from blade_dist.errors import UserError
from blade_dist.rewards.actor import RewardActor
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.named import check_groups
from blade_dist.rollouts.engine import EngineSpec
from blade_dist.rollouts.pool import EnginePool, RunningPool
from blade_dist.settings import Config, LoraSettings
from blade_dist.store.policy import PolicyStamp, context_length, read_policy
from blade_dist.store.run import RunPaths
from blade_dist.tracking.actor import TrackerActor


@dataclass(frozen=True)
class Inputs:
    """A run whose data and reference are there and fit each other and the reward."""

    data: DataBundle
    paths: RunPaths
    reference: PolicyStamp
    composite: Composite
    rows: NDArray[np.int64]
    """Training prompts that the prior and the alignment use."""


def check_inputs(config: Config) -> Inputs:
    """Opens what earlier stages left and tries the reward on a small batch; starts nothing.

    Raises:
        UserError: a missing or foreign artefact, data of other settings, an unknown metric, a reward that fails.
    """
    data = load_own_data(config)
    paths = RunPaths(config.run.dir)
    if not paths.reference.is_dir():
        raise UserError(f"{paths.reference}: no fine-tuned model there; run `blade-dist sft` first")
    reference = read_policy(paths.reference, data.codec.fingerprint())
    composite = check_metrics(config, data)
    check_lists(config, data)
    if config.train.validation_prompts and not len(data.validation):
        raise UserError(
            "train.validation_prompts: the data have no validation prompts; set it to 0, or change data.split (see "
            f"{paths.data / 'card.json'})"
        )
    rows = np.arange(len(data.train))
    if config.train.prompts is not None and config.train.prompts < len(rows):
        chosen = np.random.default_rng(config.run.seed).choice(len(rows), config.train.prompts, replace=False)
        rows = np.sort(chosen)
    return Inputs(data, paths, reference, composite, rows)


def check_metrics(config: Config, data: DataBundle) -> Composite:
    """The reward, tried on a small batch; so are the metrics of the evaluation, which comes last.

    Raises:
        UserError: an unknown metric, or a function of the user's that fails.
    """
    limits = {"reward.at_least": config.reward.at_least, "reward.at_most": config.reward.at_most}
    bounds = [make_composite(config, data, dict.fromkeys(names, 1.0), setting) for setting, names in limits.items()]
    reward = make_composite(config, data, config.reward.scored)
    check_groups([name for name, weight in config.reward.weights.items() if weight], data.catalog, "reward.weights")
    report = make_composite(config, data, dict.fromkeys(config.evaluate.metrics, 1.0), "evaluate.metrics")
    select = search_choice(config, data)
    for metrics in (*bounds, reward, report, *([select] if select else [])):
        metrics.check()
    return reward


def search_choice(config: Config, data: DataBundle) -> Composite | None:
    """What ``evaluate.best_of`` chooses by, where it is not the reward.

    Raises:
        UserError: an unknown metric.
    """
    given = config.evaluate.select_by
    return make_composite(config, data, given, "evaluate.select_by") if given else None


def make_composite(
    config: Config, data: DataBundle, weights: dict[str, float], setting: str = "reward.weights"
) -> Composite:
    """The metrics of some weights, which stand in ``setting``, with what ``reward`` says of named ones.

    Raises:
        UserError: an unknown metric.
    """
    reward = config.reward
    return Composite(weights, data.catalog, config.lists.k, setting, reward.distributions, reward.boosts)


def check_lists(config: Config, data: DataBundle) -> None:
    """Whether legal lists can be written for everybody.

    Raises:
        UserError: a rule about an item or a group that is not there; rules, or a user's history, that leave fewer
            items than ``lists.k``; no trie, or one of other tokens.
    """
    rules, items, k = make_rules(config.lists, data.catalog), len(data.catalog), config.lists.k
    if config.lists.constrain == "none":
        return
    load_trie(data.codec, RunPaths(config.run.dir).trie)
    room, excluded = room_for_all(items, k, rules), config.lists.exclude_history
    for table in (data.train, data.validation, data.test):
        if room - table.most_excluded(excluded) < k:  # somebody has had so much that it may not suffice
            check_free_items(table.rows(np.arange(len(table))), items, k, excluded, rules)


@contextmanager
def engines(
    config: Config,
    paths: RunPaths,
    checkpoint: Path,
    roles: list[Role],
    sleep: bool = False,
    lora: LoraSettings | None = None,
) -> Iterator[EnginePool]:
    """Running engines that serve ``checkpoint``, one per role; ``sleep``: they can (on a GPU); ``lora``: of pushes."""
    spec = EngineSpec.of(config, checkpoint, paths, context_length(checkpoint), sleep, lora)
    with RunningPool(config, spec, roles) as pool:
        yield pool


@contextmanager
def tracker(config: Config, folder: Path) -> Iterator[Any]:
    """A running step log below ``folder``; what it holds is written at the end."""
    tensorboard = (folder / "tensorboard").absolute() if config.tracking.tensorboard else None
    actor = TrackerActor.options(**beside_driver()).remote((folder / "metrics.parquet").absolute(), tensorboard)
    try:
        yield actor
    finally:
        ray.get(actor.close.remote())
        ray.kill(actor)


@contextmanager
def scorer(config: Config, paths: RunPaths, split: str) -> Iterator[Any]:
    """A running reward actor for one split."""
    actor = RewardActor.options(**beside_driver()).remote(paths.data.absolute(), split, config.reward, config.lists.k)
    try:
        yield actor
    finally:
        ray.kill(actor)
