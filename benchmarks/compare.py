"""The numbers of the quality table: means, differences, ratios, with intervals of the same resamples of users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from intervals import LEVEL, Users, holm
from joined import DECODES, Joined, columns
from numpy.typing import NDArray

AGAINST = ("sft", "static")
"""What every target is compared with."""
MAIN = "ndcg@5"
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
        """Differences of each target to SFT and to static, for every decode and column.

        Those of the family (greedy, the columns in ``family``) have p-values, Holm's over the whole family too.
        """
        found = [
            self._difference(policy, against, decode, name, decode == "greedy" and name in family)
            for policy in targets
            for against in AGAINST
            if against != policy and against in self._joined.policies("greedy")
            for decode in DECODES
            if policy in self._joined.policies(decode)
            for name, _ in self._columns(policy, decode)
        ]
        tested = {str(number): row["p"] for number, row in enumerate(found) if "p" in row}
        for number, adjusted in holm(tested).items():
            found[int(number)] |= {"p_holm": adjusted, "significant": adjusted < LEVEL}
        return found

    def ratio(self, policy: str, against: str) -> Found:
        """Greedy NDCG: ``mean(policy) / mean(against) - 1``."""
        a, b = (self._values(of, "greedy", MAIN) for of in (policy, against))
        return self._users.ratio(a, b).as_dict()

    def _difference(self, policy: str, against: str, decode: str, name: str, tested: bool) -> Found:
        difference = self._values(policy, decode, name) - self._values(against, decode, name)
        key = {"policy": policy, "against": against, "decode": decode, "column": name}
        p = {"p": self._users.p_value(difference)} if tested else {}
        return {**key, **self._users.mean(difference).as_dict(), **p}

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
    """What the alignment gained over SFT: better greedy lists, or only more mass on good lists that SFT writes too."""
    greedy, sampled = (found(rows, policy, "sft", decode, column) for decode in ("greedy", "sampled"))
    assert greedy is not None
    assert sampled is not None
    if greedy["low"] > 0:
        return "greedy lists are better"
    return "sharpened only" if sampled["low"] > 0 else "no gain"


def headline(numbers: Numbers, rows: Sequence[Found]) -> Found:
    """Greedy NDCG of BLADE: the relative difference to static, and the difference to SFT; where all are there."""
    to_static, to_sft = (found(rows, "blade", against, "greedy", MAIN) for against in ("static", "sft"))
    relative = {"blade_vs_static": numbers.ratio("blade", "static")} if to_static else {}
    return relative | ({"blade_vs_sft": {n: to_sft[n] for n in ("mean", "low", "high")}} if to_sft else {})
