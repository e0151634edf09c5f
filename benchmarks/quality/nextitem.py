"""The next-item model's lists as rows of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.sasrec import RATES, fit, training_sequences
from blade_dist.evaluation.per_user import per_user_rows
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.settings import Config
from blade_dist.stages.evaluate import scaled_reward
from blade_dist.stages.opened import open_run
from blade_dist.store.files import whole_file

NAME = "SASRec"
CUT = 5
"""Its learning rate and when it stops are chosen by validation NDCG at this cut-off."""
LR = b"lr"
"""Key of the chosen learning rate in the file's metadata."""


def write_rows(config: Config, decodes: tuple[str, ...], path: Path, rates: Sequence[float] = RATES) -> None:
    """Fits the model to the training part of the run's data; writes what `blade-dist evaluate` would of its lists.

    Args:
        config: settings of a run with data, a reference and a prior; ``model.build`` says how large the model is.
        decodes: ways of decoding that others have; it does not sample, so all show the same.
        path: the Parquet file.
        rates: learning rates that are tried; :func:`chosen_rate` reads the best one.
    """
    run = open_run(config)
    reward = scaled_reward(run)
    data, k = run.data, config.lists.k
    train, validation, test = (table.rows(np.arange(len(table))) for table in (data.train, data.validation, data.test))
    known = (data.catalog, training_sequences(train), validation)
    fitted = fit(known, config.model.build, config.data.max_history, config.lists, CUT, config.run.seed, rates)
    items = fitted.lists(test, k, config.lists.exclude_history)
    lists = Lists(items, test.targets, test.history, data.catalog, test.user)
    names = dict.fromkeys([*config.evaluate.metrics, *config.reward.scored], 1.0)
    metrics = Composite(names, data.catalog, k, distributions=config.reward.distributions)
    rows = [per_user_rows(NAME, decode, test, lists, metrics, reward) for decode in decodes]
    table = pa.concat_tables(rows)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), LR: str(fitted.lr)})
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def chosen_rate(path: Path) -> float:
    """The learning rate of the model whose rows these are."""
    return float(pq.read_schema(path).metadata[LR])
