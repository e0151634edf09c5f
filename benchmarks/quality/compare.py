"""The numbers of the quality table: means, differences, ratios, with intervals of the same resamples of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality.intervals import LEVEL, Users, holm
from benchmarks.quality.pooled import DECODES, Joined, columns

AGAINST = ("sft", "static", "blade")
"""What targets are compared with; of two of these, the later one with the earlier."""
MAIN = "ndcg@5"
ASKED = {"ild@5": 0.1, "mgu@5": -0.2}
"""Relative change to SFT that is asked of a reward with a weight on this metric; its sign is the better direction."""
Found = dict[str, Any]


class Numbers:
    """Intervals of a joined table."""

    def __init__(self, joined: Joined, users: Users | None = None) -> None:
        """``users``: resamples; None draws them. All policies must have SFT's rows."""
        self._joined = joined
        rows = joined.rows("sft", "greedy")
        self._keys = rows[["seed", "prompt", "user"]]
        self._users = users or Users(rows["user"].to_numpy())

    def table(self) -> dict[str, dict[str, Found]]:
        """Decode -> policy -> column -> mean, low, high; numbers of the whole corpus have a mean alone."""
        return {
            decode: {
                policy: {name: self._users.mean(values).as_dict() for name, values in self._columns(policy, decode)}
                | {name: {"mean": value} for name, value in self._joined.corpus(policy, decode).items()}
                for policy in self._joined.policies(decode)
            }
            for decode in DECODES
        }

    def comparisons(self, targets: Sequence[str], family: Sequence[str]) -> list[Found]:
        """Differences of each target to those of :data:`AGAINST`, for every decode and column.

        Those of the family (greedy, the columns in ``family``) have p-values, Holm's over the whole family too.
        """
        found = [
            self._difference(policy, against, decode, name, decode == "greedy" and name in family)
            for policy in targets
            for against in AGAINST[: AGAINST.index(policy) if policy in AGAINST else None]
            if against in self._joined.policies("greedy")
            for decode in DECODES
            if policy in self._joined.policies(decode)
            for name, _ in self._columns(policy, decode)
        ]
        tested = {str(number): row["p"] for number, row in enumerate(found) if "p" in row}
        for number, adjusted in holm(tested).items():
            found[int(number)] |= {"p_holm": adjusted, "significant": adjusted < LEVEL}
        return found

    def minus(self, policy: str, against: str, column: str) -> Found:
        """Greedily, the mean of what the policy has more than the other one, prompt by prompt."""
        return self._users.mean(self._minus(policy, against, "greedy", column)).as_dict()

    def ratio(self, policy: str, against: str, column: str) -> Found:
        """Greedily, ``mean(policy) / mean(against) - 1``."""
        a, b = (self._values(of, "greedy", column) for of in (policy, against))
        return self._users.ratio(a, b).as_dict()

    def trade(self, policy: str, metric: str, rivals: Mapping[str, str]) -> Found:
        """What a reward with a weight on ``metric`` gave and cost, greedily, and whether it is what was asked for.

        Args:
            policy: aligned with that reward.
            metric: one of :data:`ASKED`.
            rivals: other targets, and what their policy with the same reward is called.
        """
        own, reference = (self._users.mean(self._values(of, "greedy", MAIN)).as_dict() for of in (policy, "sft"))
        change = self.ratio(policy, "sft", metric)
        against = {
            target: {name: self.minus(policy, rival, name) for name in (metric, MAIN)}
            for target, rival in rivals.items()
        }
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

    def _difference(self, policy: str, against: str, decode: str, name: str, tested: bool) -> Found:
        difference = self._minus(policy, against, decode, name)
        key = {"policy": policy, "against": against, "decode": decode, "column": name}
        p = {"p": self._users.p_value(difference)} if tested else {}
        return {**key, **self._users.mean(difference).as_dict(), **p}

    def _minus(self, policy: str, against: str, decode: str, name: str) -> NDArray[np.float64]:
        return self._values(policy, decode, name) - self._values(against, decode, name)

    def _columns(self, policy: str, decode: str) -> list[tuple[str, NDArray[np.float64]]]:
        """Those with any number: a slice may be empty."""
        rows = self._rows(policy, decode)
        return [(name, rows[name].to_numpy()) for name in columns(rows) if rows[name].notna().any()]

    def _values(self, policy: str, decode: str, name: str) -> NDArray[np.float64]:
        return self._rows(policy, decode)[name].to_numpy()

    def _rows(self, policy: str, decode: str) -> pd.DataFrame:
        """Paired with every other policy's by position.

        Raises:
            ValueError: they are of other prompts or seeds.
        """
        rows = self._joined.rows(policy, decode)
        if not rows[["seed", "prompt", "user"]].equals(self._keys):
            raise ValueError(f"{policy}, {decode}: not evaluated on the prompts and seeds of SFT")
        return rows


def found(rows: Sequence[Found], policy: str, against: str, decode: str, column: str) -> Found | None:
    """One comparison; None where there is none."""
    wanted = (policy, against, decode, column)
    return next((r for r in rows if (r["policy"], r["against"], r["decode"], r["column"]) == wanted), None)


def verdict(rows: Sequence[Found], policy: str, column: str) -> str:
    """What the alignment gained over SFT in a column where more is better: better greedy lists, by Holm's rule, or only
    better samples, from more mass on good lists that SFT writes too."""
    greedy, sampled = (found(rows, policy, "sft", decode, column) for decode in ("greedy", "sampled"))
    assert greedy is not None
    assert sampled is not None
    if greedy["significant"]:
        return f"greedy lists are {'better' if greedy['mean'] > 0 else 'worse'}"
    return "better samples alone" if sampled["low"] > 0 else "no gain shown"


def headline(numbers: Numbers, rows: Sequence[Found]) -> Found:
    """Greedy NDCG of BLADE minus that of static and of SFT, where they are; ``relative``: over theirs, minus 1."""
    differences = {against: found(rows, "blade", against, "greedy", MAIN) for against in ("static", "sft")}
    return {
        f"blade_vs_{against}": {
            **{name: row[name] for name in ("mean", "low", "high")},
            "relative": numbers.ratio("blade", against, MAIN),
        }
        for against, row in differences.items()
        if row
    }
