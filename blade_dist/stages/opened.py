"""A run that is opened once, with every check that comes before an engine, and then handed on from stage to stage."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.legality import check_free_items, load_trie, room_for_all
from blade_dist.catalog.rules import make_rules
from blade_dist.data.bundle import DataBundle, load_matching_data
from blade_dist.data.seeds import stable_seed
from blade_dist.errors import UserError
from blade_dist.learners.adapter import check_modules
from blade_dist.rewards.apart import Apart
from blade_dist.rewards.composite import Composite, is_own
from blade_dist.rewards.given import GivenLists
from blade_dist.rewards.named import check_groups, reads_ranker
from blade_dist.rewards.tried import try_own
from blade_dist.settings import Config, ListSettings
from blade_dist.stages.base import is_base, read_checkpoint
from blade_dist.stages.chosen import training_rows
from blade_dist.stages.grown import known_to, with_todays_items
from blade_dist.stages.ranker import check_ranker, ranker_stamp
from blade_dist.store.changes import changes
from blade_dist.store.fingerprint import fingerprint
from blade_dist.store.policy import PolicyStamp, read_policy
from blade_dist.store.run import RunPaths
from blade_dist.store.stage import ITEMS, noted

_LOG = logging.getLogger(__name__)
SAID = 2
"""Changed settings that a warning names."""


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run whose data and reference are there, and fit each other and the settings."""

    config: Config
    """As given; the prior and the alignment use ``config.in_training``."""
    data: DataBundle
    paths: RunPaths
    reference: PolicyStamp
    composite: Composite
    """The reward, of lists of ``lists.k``."""
    rows: NDArray[np.int64]
    """``[P]`` training prompts that the prior and the alignment use, ascending."""

    def under(self, config: Config) -> OpenedRun:
        """The same data and reference under other settings of the method; these are checked as :func:`open_run` does.

        ``config`` may differ in what a sweep varies, and in the target; not in how data and reference were made.

        Raises:
            UserError: as :func:`open_run`.
        """
        return _checked(config, self.data, self.paths, self.reference)

    @cached_property
    def warm(self) -> NDArray[np.int64]:
        """Those of ``rows`` that get all reference lists, ``prior.prompts`` of them; the others are cold."""
        wanted = self.config.prior.prompts
        if wanted is None or wanted >= len(self.rows):
            return self.rows
        rng = np.random.default_rng(stable_seed(self.config.run.seed, "warm prompts"))
        return np.sort(rng.choice(self.rows, wanted, replace=False))

    @cached_property
    def prior_stamp(self) -> dict[str, Any]:
        """What the prior depends on, by setting where there is one; compared before one is used."""
        config = self.config
        cold: dict[str, Any] = {"prior.cold_size": config.prior.cold_size} if config.prior.cold_size else {}
        if len(self.warm) < len(self.rows):
            cold["the choice of warm prompts"] = fingerprint(self.warm.tolist())
        read = reads_ranker(config.reward.scored)
        ranker = ranker_stamp(config, self.data, self.reference.weights) if read else {}
        return (
            cold
            | ranker
            | {
                "reward": self.composite.depends_on(),
                "reward.normalise": config.reward.normalise,
                "metrics with a floor or a ceiling": sorted(config.reward.constrained),
                "rollout.k (or lists.k)": config.in_training.lists.k,
                "rollout.temperature": config.rollout.temperature,
                "legal lists (see lists)": legal_lists(config.lists),
                "prior.size": config.prior.size,
                "prior.prompts": config.prior.prompts,
                "the fine-tuned model": self.reference.weights,
                ITEMS: len(self.data.catalog),
                "the catalog": self.data.catalog.fingerprint(),
                "the training prompts": self.data.train.fingerprint(),
            }
        )


def open_run(config: Config, evaluated: Path | None = None) -> OpenedRun:
    """Opens what the data and SFT stages left and tries the reward on a small batch; starts nothing.

    ``evaluated``: a checkpoint that is to be evaluated. One that nobody of ours trained, or that was trained on an
    earlier catalog (:mod:`blade_dist.stages.grown`), is its own reference, so that it needs no SFT stage before, where
    no metric reads the fine-tuned model.

    Raises:
        UserError: a missing or foreign artefact, data of other settings, an unknown metric, a reward that fails, a
            rule that leaves too few items, or settings of the alignment that the data or the reference don't allow.
    """
    data, paths = load_matching_data(config), RunPaths(config.run.dir)
    there = noted(paths.sft).get(ITEMS)
    if there not in (None, len(data.catalog)):
        raise UserError(
            f"{paths.sft}: the fine-tuned model there is of {there:,} items, and the catalog has {len(data.catalog):,} "
            "now: move it away and run `blade-dist sft`, or choose another run.dir"
        )
    if paths.reference.is_dir():
        there = _tuning(noted(paths.sft))
        if there and evaluated is None and (others := list(changes(there, tuned_by(config)).values())):
            said = "; ".join(others[:SAID]) + (f" and {len(others) - SAID} more" if others[SAID:] else "")
            _LOG.warning("warning: %s was fine-tuned with other settings, and stays as it is: %s", paths.sft, said)
        return _checked(config, data, paths, read_policy(paths.reference, data.codec.fingerprint()))
    foreign = evaluated is not None and (is_base(evaluated) or known_to(evaluated, config, data) is not None)
    if evaluated is None or not foreign or reads_ranker(config.all_metrics):
        raise UserError(f"{paths.reference}: no fine-tuned model there; run `blade-dist sft` first")
    stamp = read_checkpoint(with_todays_items(evaluated, config, data), data.codec)
    return _checked(config, data, paths, stamp)


def _checked(config: Config, data: DataBundle, paths: RunPaths, reference: PolicyStamp) -> OpenedRun:
    composite = check_metrics(config, data)
    check_lists(config, data)
    if config.train.validation_prompts and not len(data.validation):
        raise UserError(
            "train.validation_prompts: the data have no validation prompts; set it to 0, or change data.split (see "
            f"{paths.data / 'card.json'})"
        )
    if config.learner.lora is not None and paths.reference.is_dir():
        check_modules(paths.reference, config.learner.lora, config.model)
    return OpenedRun(config, data, paths, reference, composite, training_rows(config, len(data.train)))


def tuned_by(config: Config) -> dict[str, Any]:
    """What the fine-tuning depends on of its own sections; a later command goes on with another value of them."""
    return {
        "model": config.model.model_dump(mode="json"),
        "sft": config.sft.model_dump(mode="json") | {"lr": config.sft_lr, "epochs": config.sft_epochs},
    }


def _tuning(stamp: dict[str, Any]) -> dict[str, Any]:
    """The same of a fine-tuning that is there."""
    return {name: stamp[name] for name in ("model", "sft") if name in stamp}


def legal_lists(lists: ListSettings) -> str:
    """Which lists are legal, in words; rules by a digest, as they may name many items."""
    rules = fingerprint(sorted(set(lists.exclude)), lists.at_most) if lists.exclude or lists.at_most else None
    history = {True: "nothing seen", "shown": "nothing shown", False: "anything seen"}[lists.exclude_history]
    return f"{lists.constrain}, {history}" + (f", rules {rules}" if rules else "")


def written_lists(lists: ListSettings) -> dict[str, Any]:
    """What an evaluation notes of its lists, and an export compares."""
    return {"k": lists.k, "legal": legal_lists(lists)}


def check_metrics(config: Config, data: DataBundle) -> Composite:
    """The reward. It is tried on a small batch, and so are all other metrics: evaluation comes last, hours later.

    Raises:
        UserError: an unknown metric, a function of the user's that fails, hangs or ends its process, or a ranker that a
            metric reads and that has nothing to say.
    """
    reward, lists = config.reward, config.lists
    # the reward scores what has a floor or a ceiling too; these exist so that an error names the metric's setting
    standing: dict[str, Iterable[str]] = {
        "reward.at_least": reward.at_least,
        "reward.at_most": reward.at_most,
        "reward.weights": reward.scored,
        "evaluate.metrics": config.evaluate.metrics,
        "evaluate.select_by": config.evaluate.select_by,
    }
    built_in = [
        make_composite(config, data, {name: 1.0 for name in names if not is_own(name)}, setting)
        for setting, names in standing.items()
    ]
    check_groups([name for name, weight in reward.weights.items() if weight], data.catalog, "reward.weights")
    for metrics in built_in:
        metrics.check()
    own = {name: setting for setting, names in reversed(standing.items()) for name in names if is_own(name)}
    if own:  # what they do to their process, they do to another one than this first
        try_own(tuple(own.items()), data.catalog, lists.k, _incidents(config), reward.timeout_s)
    search_choice(config, data)
    check_ranker(config, data)
    return make_composite(config, data, reward.scored)


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

    A function of the user's is called in a process of its own: the command's must outlive it.

    Raises:
        UserError: an unknown metric.
    """
    reward, own = config.reward, Apart(config.reward.timeout_s).function
    given = GivenLists(_incidents(config), "command")
    return Composite(weights, data.catalog, config.lists.k, setting, reward.distributions, reward.boosts, given, own)


def _incidents(config: Config) -> Path:
    return RunPaths(config.run.dir.absolute()).incidents


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
        # exact counts take a pass over all prompts; none is needed where the longest history leaves enough
        if room - table.most_excluded(excluded) < k:
            check_free_items(table.rows(np.arange(len(table))), items, k, excluded, rules)
