"""The next-item model's lists as rows of an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sasrec import fit, training_sequences

from blade_dist.evaluation.table import per_user_rows
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.settings import Config
from blade_dist.stages.parts import check_inputs
from blade_dist.stages.prior import reward_scales

NAME = "SASRec"
CUT = 5
"""Its learning rate and when it stops are chosen by validation NDCG at this cut-off."""


def write_rows(config: Config, decodes: tuple[str, ...], path: Path) -> None:
    """Fits the model to the training part of the run's data; writes what `blade-dist evaluate` would of its lists.

    Args:
        config: settings of a run with data, a reference and a prior; ``model.build`` says how large the model is.
        decodes: ways of decoding that others have; it does not sample, so all show the same.
        path: the Parquet file.
    """
    inputs = check_inputs(config)
    inputs.composite.rescale(reward_scales(config, inputs))
    data, k = inputs.data, config.lists.k
    train, validation, test = (table.rows(np.arange(len(table))) for table in (data.train, data.validation, data.test))
    known = (data.catalog, training_sequences(train), validation)
    fitted = fit(known, config.model.build, config.data.max_history, config.lists, CUT, config.run.seed)
    items = fitted.lists(test, k, config.lists.exclude_history)
    lists = Lists(items, test.targets, test.history, data.catalog, test.user)
    names = dict.fromkeys([*config.evaluate.metrics, *config.reward.scored], 1.0)
    metrics = Composite(names, data.catalog, k, distributions=config.reward.distributions)
    rows = [per_user_rows(NAME, decode, test, lists, metrics, inputs.composite) for decode in decodes]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(pa.concat_tables(rows), temporary)
    temporary.replace(path)
