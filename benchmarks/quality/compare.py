"""The numbers of the quality table: means, differences, ratios, with intervals of the same resamples of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality.pooled import DECODES, PooledRows, columns
from blade_dist.evaluation.bootstrap import Resamples
from blade_dist.evaluation.decoding import LIST, SAMPLED

RESAMPLES = 10_000
"""So many that the smallest p-value, times the size of the family, is far below :data:`LEVEL`."""
LEVEL = 0.05
"""The family's error rate."""
AGAINST = ("sft", "static", "blade")
"""What targets are compared with; of two of these, the later one with the earlier."""
MAIN = "ndcg@5"
ASKED = {"ild@5": 0.1, "mgu@5": -0.2}
"""Relative change to SFT that is asked of a reward with a weight on this metric; its sign is the better direction."""
MEASURED = (MAIN, *ASKED)
"""Columns whose intervals are kept; of the others the mean."""
Result = dict[str, Any]


class Numbers:
    """Intervals of a pooled table."""

    def __init__(self, pooled: PooledRows, resamples: int = RESAMPLES) -> None:
        """``resamples``: number of them. All policies must have SFT's rows."""
        self._pooled = pooled
        rows = pooled.rows("sft", LIST)
        self._keys = rows[["seed", "prompt", "user"]]
        # one object for every number: the same users are drawn for all policies, so that ratios are paired too
        self._resamples = Resamples(rows["user"].to_numpy(), resamples, seed=0)

    def table(self) -> dict[str, dict[str, Result]]:
        """Decode -> policy -> column -> mean; of :data:`MEASURED` low and high too."""
        return {
            decode: {
                policy: {name: self._number(name, values) for name, values in self._columns(policy, decode)}
                | {name: {"mean": value} for name, value in self._pooled.corpus(policy, decode).items()}
                for policy in self._pooled.policies(decode)
            }
            for decode in DECODES
        }

    def comparisons(self, targets: Sequence[str], family: Sequence[str]) -> list[Result]:
        """Differences of each target to those of :data:`AGAINST`, for every decode and each column in ``family``.

        The greedy ones have p-values, Holm's over all of them too.
        """
        rows = [
            self._difference(policy, against, decode, name, tested=decode == LIST)
            for policy in targets
            for against in AGAINST[: AGAINST.index(policy) if policy in AGAINST else None]
            if against in self._pooled.policies(LIST)
            for decode in DECODES
            if policy in self._pooled.policies(decode)
            for name in family
        ]
        tested = {str(number): row["p"] for number, row in enumerate(rows) if "p" in row}
        for number, adjusted in holm(tested).items():
            rows[int(number)] |= {"p_holm": adjusted, "significant": adjusted < LEVEL}
        return rows

    def minus(self, policy: str, against: str, column: str) -> Result:
        """Greedily, the mean of what the policy has more than the other one, prompt by prompt."""
        return self._resamples.mean(self._minus(policy, against, LIST, column)).as_dict()

    def ratio(self, policy: str, against: str, column: str) -> Result:
        """Greedily, ``mean(policy) / mean(against) - 1``."""
        a, b = (self._values(of, LIST, column) for of in (policy, against))
        return self._resamples.ratio(a, b).as_dict()

    def trade(self, policy: str, metric: str, rivals: Mapping[str, str]) -> Result:
        """What a reward with a weight on ``metric`` gave and cost, greedily, and whether it reaches :data:`ASKED`.

        Args:
            policy: aligned with that reward.
            metric: one of :data:`ASKED`.
            rivals: other targets, and what their policy with the same reward is called.
        """
        own, reference = (self._resamples.mean(self._values(of, LIST, MAIN)).as_dict() for of in (policy, "sft"))
        change = self.ratio(policy, "sft", metric)
        against = {target: {metric: self.minus(policy, rival, metric)} for target, rival in rivals.items()}
        reached = own["mean"] >= reference["low"] and change["mean"] / ASKED[metric] >= 1
        return {
            "policy": policy,
            "metric": metric,
            "relative_to_sft": change,
            MAIN: own,
            f"{MAIN}_minus_sft": self.minus(policy, "sft", MAIN),
            "sft_low": reference["low"],
            "reached": reached,
            "against": against,
        }

    def _number(self, name: str, values: NDArray[np.float64]) -> Result:
        return self._resamples.mean(values).as_dict() if name in MEASURED else {"mean": float(np.nanmean(values))}

    def _difference(self, policy: str, against: str, decode: str, name: str, tested: bool) -> Result:
        difference = self._minus(policy, against, decode, name)
        key = {"policy": policy, "against": against, "decode": decode, "column": name}
        p = {"p": self._resamples.p_value(difference)} if tested else {}
        return {**key, **self._resamples.mean(difference).as_dict(), **p}

    def _minus(self, policy: str, against: str, decode: str, name: str) -> NDArray[np.float64]:
        return self._values(policy, decode, name) - self._values(against, decode, name)

    def _columns(self, policy: str, decode: str) -> list[tuple[str, NDArray[np.float64]]]:
        """Those with any number: a segment may be empty."""
        rows = self._rows(policy, decode)
        return [(name, rows[name].to_numpy()) for name in columns(rows) if rows[name].notna().any()]

    def _values(self, policy: str, decode: str, name: str) -> NDArray[np.float64]:
        return self._rows(policy, decode)[name].to_numpy()

    def _rows(self, policy: str, decode: str) -> pd.DataFrame:
        """Paired with every other policy's by position.

        Raises:
            ValueError: they are of other prompts or seeds.
        """
        rows = self._pooled.rows(policy, decode)
        if not rows[["seed", "prompt", "user"]].equals(self._keys):
            raise ValueError(f"{policy}, {decode}: not evaluated on the prompts and seeds of SFT")
        return rows


def comparison(rows: Sequence[Result], policy: str, against: str, decode: str, column: str) -> Result | None:
    """One comparison; None where there is none."""
    wanted = (policy, against, decode, column)
    return next((r for r in rows if (r["policy"], r["against"], r["decode"], r["column"]) == wanted), None)


def verdict(rows: Sequence[Result], policy: str, column: str) -> str:
    """What the alignment gained over SFT in a column where more is better: better greedy lists, by Holm's rule, or only
    better samples, from more mass on good lists that SFT writes too."""
    greedy, sampled = (comparison(rows, policy, "sft", decode, column) for decode in (LIST, SAMPLED))
    assert greedy is not None
    assert sampled is not None
    if greedy["significant"]:
        return f"greedy lists are {'better' if greedy['mean'] > 0 else 'worse'}"
    return "better samples alone" if sampled["low"] > 0 else "no gain shown"


def headline(numbers: Numbers, rows: Sequence[Result]) -> Result:
    """Greedy NDCG of BLADE minus that of static and of SFT, where they are; ``relative``: over theirs, minus 1."""
    differences = {against: comparison(rows, "blade", against, LIST, MAIN) for against in ("static", "sft")}
    return {
        f"blade_vs_{against}": {
            **{name: row[name] for name in ("mean", "low", "high")},
            "relative": numbers.ratio("blade", against, MAIN),
        }
        for against, row in differences.items()
        if row
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of one family (Holm, 1979): the i-th smallest of m, times ``m - i + 1``; never falling, at most
    1. So 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    adjusted, least = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
