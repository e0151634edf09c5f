"""The estimator's mathematics, without its memory: from groups to estimates, and to a report of the belief. Pure numpy.

The formulas have files of their own: the proxy reward in ``targets/``, the posterior in ``beta.py``, the advantage in
``advantage.py``, the report in ``belief.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from blade_dist.posterior.advantage import Scale, informative
from blade_dist.posterior.belief import believe
from blade_dist.posterior.beta import Array
from blade_dist.posterior.targets.target import Groups, Target


def estimate(
    chunks: Iterable[Groups], shape: tuple[int, int], target: Target, scale: Scale
) -> tuple[Array, NDArray[np.float32], NDArray[np.bool_]]:
    """Proxy rewards ``[B, G]``, advantages ``[B, G]``, and whether each group is informative, ``[B]``.

    Args:
        chunks: the groups, in pieces that the processor's cache holds; their rows are independent of each other.
        shape: (B, G) of all chunks together.
        target: which proxy reward and advantage.
        scale: of the advantage.
    """
    # written into arrays made here: a target's result may be a transposed view, and what leaves must be contiguous
    proxy, advantage, differ = np.empty(shape), np.empty(shape, dtype=np.float32), np.empty(shape[0], dtype=bool)
    start = 0
    for groups in chunks:
        part = slice(start, start := start + len(groups.rewards))
        judged = target.proxy(groups)
        proxy[part], advantage[part], differ[part] = judged, target.advantage(judged, scale), informative(judged)
    return proxy, advantage, differ


def belief_report(groups: Groups, rows: int) -> dict[str, Array]:
    """``posterior/...`` of :func:`~blade_dist.posterior.belief.believe`, ``[rows]`` or ``[rows, bins]``.

    Args:
        groups: of the first prompts of a step; not a number stands for the others.
        rows: B, prompts of the step.
    """
    belief = believe(groups.rewards, groups.reference, groups.settings, groups.carried, groups.pooled)
    return {f"posterior/{name}": _padded(values, rows) for name, values in belief.items()}


def _padded(values: Array, rows: int) -> Array:
    """``values`` for the first rows, not a number for the rest of ``rows``."""
    padded = np.full((rows, *values.shape[1:]), np.nan)
    padded[: len(values)] = values
    return padded
