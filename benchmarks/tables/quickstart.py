"""The tables of the quickstart's recorded evaluation."""

from __future__ import annotations

from benchmarks.tables.text import Result, Rows, interval, signed, title

METRICS = ("reward", "ndcg@5", "recall@5", "ild@5", "mgu@5")
LESS_IS_BETTER = "mgu@5"


def policies(result: Result, decode: str) -> Rows:
    """Every policy's means with their intervals."""
    heads = [f"{metric} (less is better)" if metric == LESS_IS_BETTER else metric for metric in METRICS]
    table = result["tables"][decode]
    return [
        [decode, *heads],
        *([title(policy), *(interval(of[metric], 3) for metric in METRICS)] for policy, of in table.items()),
    ]


def difference(result: Result) -> Rows:
    """BLADE minus SFT, per user."""
    kinds = {"list": "difference", "rank": "difference_rank", "one sample at T = 1": "difference_sampled"}
    rows = [
        [label, *(signed(result["summary"][key][metric], ".3f") for metric in METRICS)] for label, key in kinds.items()
    ]
    return [["BLADE minus SFT", *METRICS], *rows]
