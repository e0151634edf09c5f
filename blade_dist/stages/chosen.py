"""Which prompts of each split a run uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blade_dist.settings import Config


def training_rows(config: Config, size: int) -> NDArray[np.int64]:
    """Those that the prior and the alignment use: ``train.prompts`` of the ``size`` ones, or all, ascending."""
    return _drawn(config, config.train.prompts, size)


def validation_rows(config: Config, size: int) -> NDArray[np.int64]:
    """Those whose reward is measured at every checkpoint of the alignment, ascending."""
    rows = np.random.default_rng(config.run.seed).permutation(size)
    return np.sort(rows[: config.train.validation_prompts])


def test_rows(config: Config, size: int) -> NDArray[np.int64]:
    """Those of the evaluation: ``evaluate.max_prompts`` or all, ascending."""
    return _drawn(config, config.evaluate.max_prompts, size)


def _drawn(config: Config, limit: int | None, size: int) -> NDArray[np.int64]:
    if limit is None or limit >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(config.run.seed).choice(size, limit, replace=False))
