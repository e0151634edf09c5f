"""``blade-dist evaluate``: held-out metrics of checkpoints, side by side, with paired-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from rich.console import Console

from blade_dist.batches import Prompts, Ranked
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.rules import make_rules
from blade_dist.cluster.placement import place_here
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.errors import UserError
from blade_dist.evaluation.baselines import baseline_lists
from blade_dist.evaluation.cold import cold_numbers
from blade_dist.evaluation.corpus import illegal_rates
from blade_dist.evaluation.decoding import RANK, Cost, decodes, trained_for
from blade_dist.evaluation.ease import MOST_ITEMS
from blade_dist.evaluation.per_user import differences, per_user_rows, summarise
from blade_dist.learners.packing import PromptLists
from blade_dist.learners.policy import Policy, load_model, sequence_logprobs
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.named import reads_ranker
from blade_dist.rewards.ranker import RankerTable
from blade_dist.rollouts.pool import EnginePool, NobodyServesError
from blade_dist.settings import Config
from blade_dist.stages.actors import engines
from blade_dist.stages.base import read_checkpoint
from blade_dist.stages.chosen import test_rows
from blade_dist.stages.findings import Findings, difference_key
from blade_dist.stages.grown import say_new, with_todays_items
from blade_dist.stages.opened import OpenedRun, make_composite, written_lists
from blade_dist.stages.prior import open_prior
from blade_dist.stages.ranker_tables import ranked_by
from blade_dist.stages.searches import ListWriter, pool_size, searched
from blade_dist.store.files import whole_file, write_json
from blade_dist.store.policy import PolicyStamp
from blade_dist.tracking.bar import Bar, waiting
from blade_dist.tracking.say import say, say_end
from blade_dist.training.probe import probe_request
from blade_dist.training.prompter import Prompter
from blade_dist.training.publish import Publisher, ServedModel
from blade_dist.weights.gather import source

T = TypeVar("T")


def evaluate_stage(run: OpenedRun, checkpoint: Path, against: list[Path], console: Console) -> dict[str, Any]:
    """Writes ``per_user.parquet``, ``summary.json`` and ``report.txt`` in ``evaluation``, returns the summary.

    A console is shown the lists that are served, the report all tables; a verbose one is shown all tables too.

    Differences are the first checkpoint minus the first of ``against``, per user, by each way of decoding.

    Raises:
        UserError: a checkpoint that is missing or of another model; scales of the reward that no prior says yet.
    """
    config, data, reward = run.config, run.data, scaled_reward(run)
    for path in (checkpoint, *against):
        say_new("evaluate", path, config, data, console)
    paths = [with_todays_items(path, config, data) for path in (checkpoint, *against)]
    stamps = [read_checkpoint(path, data.codec) for path in paths]
    names = _names(stamps)
    prompts = data.test.rows(test_rows(config, len(data.test)))
    reported = make_composite(config, data, _reported(config))

    with waiting(console, "recommenders without a model"):
        ways, simple = decodes(config), _baselines(run, prompts, console)
    size = pool_size(run, console)
    calls = len(ways) * len(names) + bool(config.evaluate.best_of) + bool(size)
    lists: dict[tuple[str, str], Lists] = {}
    illegal: dict[tuple[str, str], dict[str, float]] = {}
    costs: dict[tuple[str, str], Cost] = {}
    with (
        Bar("evaluate", len(prompts) * calls, "lists", console, "starting the engines") as bar,
        ray_runtime(config, learners=False),
        engines(config, run.paths, paths[0], place_here(config, learners=False).engines) as pool,
        _publisher(run, pool) as publisher,
    ):
        writer = ListWriter(run, pool, _prompter(run), bar)
        ranker = _ranker(run, prompts, partial(_serve, run, run.paths.reference, publisher, 1), pool, console)

        def as_lists(items: NDArray[np.int32]) -> Lists:
            return Lists(items, prompts.targets, prompts.history, data.catalog, prompts.user, ranker)

        lists |= {(name, way): as_lists(items) for name, items in simple.items() for way in ways}
        first = 1 if ranker is None else 2  # after the reference
        for number, (name, path) in enumerate(zip(names, paths, strict=True), start=first):
            serve = partial(_serve, run, path, publisher, number)
            serve()
            for decode in ways:
                bar.at(writer.finished, f"{name} by {decode}")
                written, costs[name, decode] = _by(serve, partial(writer.write, prompts.index, decode))
                lists[name, decode] = as_lists(written.items[:, 0])
                illegal[name, decode] = illegal_rates(written.invalid, written.duplicate, config.lists.k)
            # the reference's: the first of ``against``, or the checkpoint where it stands alone
            if name == names[:2][-1]:
                found = _by(serve, partial(searched, run, reward, prompts, ranker, writer, size))
                for (search, way), items in found.items():
                    lists[f"{name} {search}", way] = as_lists(items)
    rows = pa.concat_tables(
        per_user_rows(name, decode, prompts, batch, reported, reward) for (name, decode), batch in lists.items()
    )
    trained = {name: trained_for(stamp.policy) for name, stamp in zip(names, stamps, strict=True)}
    summary = _summary(config, rows, lists, illegal, names, data.catalog.cold) | {
        "decode": {"served": config.evaluate.decode, "trained_for": trained},
        "lists": written_lists(config.lists),
        "weights": {name: stamp.weights for name, stamp in zip(names, stamps, strict=True)},
        "cost": {way: {name: costs[name, way].as_dict() for name in names} for way in ways},
    }
    _write(rows, summary, run.paths.evaluation)
    findings = Findings(
        config,
        rows,
        summary,
        names,
        list(simple),
        [name for name, way in lists if way == RANK and name not in {*simple, *names}],
        costs,
        trained,
        list(_reported(config)),
    )
    findings.write(run.paths.evaluation)
    findings.show(run.paths.evaluation, console)
    made = f"{run.paths.evaluation} holds report.txt, summary.json, and per_user.parquet with every list"
    say_end(console, "evaluate", made, *findings.sentences())
    return summary


def scaled_reward(run: OpenedRun) -> Composite:
    """The reward, each metric divided by its scale where ``reward.normalise`` says so.

    Raises:
        UserError: no prior says the scales yet.
    """
    reward = make_composite(run.config, run.data, run.config.reward.scored)
    if run.config.reward.normalise:
        if (prior := open_prior(run)) is None:
            raise UserError(f"reward.normalise: {run.paths.prior} has the scales; run `blade-dist prior` to make it")
        return reward.rescaled(prior.scales)
    return reward


def _publisher(run: OpenedRun, pool: EnginePool) -> Publisher:
    """Makes the engines serve one checkpoint after another, over gloo: this process has no GPU."""
    config, data = run.config, run.data
    rows = np.arange(min(config.weights.probe_prompts, len(data.test)))
    probe = probe_request(_prompter(run), rows, temperature=1.0)
    legality = Legality.load(config.lists, data.codec, run.paths.trie, run.paths.catalog)
    return Publisher(pool, "gloo", probe, legality, config.logprob_tolerance)


def _serve(run: OpenedRun, path: Path, publisher: Publisher, number: int) -> None:
    """Makes the engines serve the checkpoint at ``path``, the evaluation's ``number``-th."""
    publisher.publish((0, number), _served_model(run, path))


def _by(serve: Callable[[], None], write: Callable[[], T]) -> T:
    """What engines write; where all that served were lost, ``serve`` gives the weights to those in their place."""
    while True:
        try:
            return write()
        except NobodyServesError:
            serve()


def _ranker(
    run: OpenedRun, prompts: Prompts, serve: Callable[[], None], pool: EnginePool, console: Console
) -> Ranked | None:
    """What the ranker says of the test prompts; None where no metric reads it. ``serve``: the reference."""
    if not reads_ranker(run.config.all_metrics):
        return None

    def candidates(rows: NDArray[np.int64], size: int) -> Ranked:
        serve()
        return _by(serve, partial(pool.candidates, _prompter(run).request(rows, 1, 1.0, "ranker"), size))

    return RankerTable.load(ranked_by(run, "test", prompts.index, console, candidates)).of(prompts.index)


def _served_model(run: OpenedRun, path: Path) -> ServedModel:
    """The checkpoint, loaded here."""
    config, pad = run.config, run.data.codec.pad
    policy = Policy(load_model(path, config.model), temperature=1.0)

    def logprobs(sequences: PromptLists) -> torch.Tensor:
        return sequence_logprobs(policy, sequences, pad, config.learner.tokens_per_microbatch, False)

    return ServedModel(source(policy.model, config.weights.bucket_mb), logprobs)


def _prompter(run: OpenedRun) -> Prompter:
    return Prompter(run.data.test, run.data.codec, run.config.run.seed, run.config.lists.exclude_history)


def _baselines(run: OpenedRun, prompts: Prompts, console: Console) -> dict[str, NDArray[np.int32]]:
    """Lists of the recommenders without a model; they do not sample, so every way of decoding shows the same."""
    lists, catalog = run.config.lists, run.data.catalog
    sequences = run.data.sequences.rows(np.arange(len(run.data.sequences)))
    validation = run.data.validation.rows(np.arange(len(run.data.validation)))
    if len(catalog) > MOST_ITEMS:
        say(console, f"evaluate: EASE is left out: {len(catalog):,} items, it is fitted to {MOST_ITEMS:,} at most")
    rules = make_rules(lists, catalog)
    return baseline_lists(catalog, sequences, validation, prompts, lists.k, lists.exclude_history, rules)


def _reported(config: Config) -> dict[str, float]:
    """Names of all metrics that are reported; the weights are not read."""
    return dict.fromkeys([*config.evaluate.metrics, *config.reward.scored], 1.0)


def _names(stamps: list[PolicyStamp]) -> list[str]:
    """The policies' names; a name that comes again gets its number."""
    names: list[str] = []
    for stamp in stamps:
        again = sum(name.split(" ")[0] == stamp.policy for name in names)
        names.append(f"{stamp.policy} {again + 1}" if again else stamp.policy)
    return names


def _summary(
    config: Config,
    rows: pa.Table,
    lists: dict[tuple[str, str], Lists],
    illegal: dict[tuple[str, str], dict[str, float]],
    names: list[str],
    cold: NDArray[np.bool_],
) -> dict[str, Any]:
    """Numbers of what is served by policy, those of the other decodes below their names, and the differences.

    ``cold``: ``[I]``, see :attr:`blade_dist.catalog.catalog.Catalog.cold`; where there are none, no number is of them.
    """
    summary: dict[str, Any] = {}
    for decode in decodes(config):
        by_policy = summarise(rows, lists, decode)
        for policy, numbers in by_policy.items():
            numbers.update(illegal.get((policy, decode), {}))
            if cold.any():
                numbers.update(cold_numbers(lists[policy, decode], cold))
        summary |= by_policy if decode == config.evaluate.decode else {decode: by_policy}
        if len(names) > 1:
            summary[difference_key(config, decode)] = differences(
                rows, decode, names[0], names[1], config.evaluate.bootstrap, config.run.seed
            )
    return summary


def _write(rows: pa.Table, summary: dict[str, Any], folder: Path) -> None:
    write_json(folder / "summary.json", summary)
    with whole_file(folder / "per_user.parquet") as temporary:
        pq.write_table(rows, temporary)
