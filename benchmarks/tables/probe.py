"""The table of a probe of alignment: rewards of users that nobody aligned on, by what writes their lists."""

from __future__ import annotations

from benchmarks.tables.text import Result, Rows, interval, title

TARGETS = ("static", "blade", "grpo")
RERANKED = ("mmr", "dpp", "utility")


def rewards(result: Result) -> Rows:
    """Means over users and seeds, and how much BLADE has more than static."""
    means, ratio, differences = result["means"], result["relative_to_static"], result["differences"]
    rows = [["reward", "greedy list", "drawn list"]]
    rows += [["the start", interval(means["greedy start"]), interval(means["drawn start"])]]
    rows += [[title(name), *(interval(means[f"{way} {name}"]) for way in ("greedy", "drawn"))] for name in TARGETS]
    less = [interval(differences[f"{way} blade minus static"]) for way in ("greedy", "drawn")]
    rows += [["BLADE minus static", *less]]
    rows += [["the same, as a share", *(_percent(ratio[f"{way} blade"]) for way in ("greedy", "drawn"))]]
    return rows + [[f"the start's best items by `{name}`", interval(means[f"greedy {name}"]), ""] for name in RERANKED]


def _percent(of: Result) -> str:
    mean, low, high = (100 * of[part] for part in ("mean", "low", "high"))
    return f"{mean:+.1f} % [{low:.1f}, {high:.1f}]"
