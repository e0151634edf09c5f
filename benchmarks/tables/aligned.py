"""The table of an alignment on a real log: policies by both decodes, and what re-ranks the fine-tuned one."""

from __future__ import annotations

from benchmarks.tables.text import Result, Rows, interval, title

METRICS = ("reward", "hr@10", "ndcg@10", "ild@10")
PRESETS = ("aligned-beauty", "aligned-scientific")
"""Result files."""
POLICIES = ("sft", "static", "blade")


def aligned(result: Result) -> Rows:
    """The least reward first."""
    by_list, by_rank = result["tables"]["list"], result["tables"]["rank"]
    rows = {f"{title(name)}, `list`": by_list[name] for name in POLICIES}
    rows |= {f"{title(name)}, `rank`": by_rank[name] for name in POLICIES}
    rows |= {name: of for name, of in by_rank.items() if name.startswith("sft ")}
    ordered = sorted(rows.items(), key=lambda row: row[1]["reward"]["mean"])
    return [["method", *METRICS], *([name, *(interval(of[metric]) for metric in METRICS)] for name, of in ordered)]
