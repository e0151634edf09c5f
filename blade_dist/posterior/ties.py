"""How far a prompt's reference lists differ in reward, which is what a rank among them can say. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ties:
    """Of the reference lists of many prompts."""

    prompts: int
    """Prompts that have lists."""
    lists: int
    mean: float
    """Reward of a list."""
    best: float
    """Mean over prompts of the best of each one's lists."""
    pairs: float
    """Share of the pairs of a prompt's lists that are equal in reward; 0 where there is no pair."""
    alike: float
    """Share of the prompts all of whose lists are equal in reward."""

    def __str__(self) -> str:
        return (
            f"{self.lists:,} reference lists of {self.prompts:,} prompts: reward {self.mean:.4g} on average, "
            f"{self.best:.4g} the best of each prompt's; {self.pairs:.1%} of the pairs of a prompt's lists are equal, "
            f"on {self.alike:.1%} of the prompts all lists are"
        )


def ties(rewards: NDArray[np.float64]) -> Ties:
    """Of ``[P, M]`` rewards, each row ascending; not a number where a prompt has fewer lists.

    >>> print(ties(np.array([[0.0, 0.0, 1.0]])).pairs)  # one of the three pairs
    0.3333333333333333

    Raises:
        ValueError: no prompt has a list.
    """
    counts = (~np.isnan(rewards)).sum(axis=1)
    rewards, counts = rewards[counts > 0], counts[counts > 0]
    if not len(rewards):
        raise ValueError("no prompt has a reference list")
    # rows ascend, so equal rewards are runs: the pairs of a run of 4 are 0 + 1 + 2 + 3, its places behind its begin
    places = np.arange(rewards.shape[1])
    begins = np.maximum.accumulate(np.where(np.diff(rewards, axis=1, prepend=np.nan) == 0, 0, places), axis=1)
    equal, pairs = (places - begins).sum(axis=1), counts * (counts - 1) / 2
    return Ties(
        prompts=len(rewards),
        lists=int(counts.sum()),
        mean=float(np.nanmean(rewards)),
        best=float(np.nanmax(rewards, axis=1).mean()),
        pairs=float(equal.sum() / max(1, pairs.sum())),
        alike=float((equal == pairs).mean()),
    )
