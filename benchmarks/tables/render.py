"""The quality tables as a person sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.quality.compare import AGAINST, MAIN, found, verdict
from benchmarks.quality.nextitem import NAME
from benchmarks.quality.pooled import DECODES
from benchmarks.tables import movielens as quality_tables

WIDTH = 280
"""Characters of a line where no terminal says how many it has."""
MARKS = {"sft": "*", "static": "†", "blade": "‡"}
"""Beside a greedy number: it differs from this policy's, by Holm's rule over the family."""
TITLES = {
    "greedy": "greedy decoding; * differs from SFT, † from static, ‡ from BLADE (Holm over the family, 5 %)",
    "beam": "beam search",
    "sampled": "one sample at T = 1, and searches over more",
}
UNWRITTEN = ("popularity", "co-occurrence", NAME)
"""Policies that rank items; each way of decoding shows the same."""
SLICE = "ndcg@5, "
"""How the columns of slices begin."""
Found = dict[str, Any]


def show(result: Found, family: Sequence[str], beam_width: int, console: Console) -> None:
    """Every table of the main part."""
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH)
    rows = result["comparisons"]
    for decode, policies in result["tables"].items():
        if policies:
            hidden = () if "reward" in family else ("reward",)  # it is NDCG, which has a column
            names = [name for name in columns_of(policies) if not name.startswith(SLICE) and name not in hidden]
            wide.print(_table(TITLES[decode], policies, names, decode, rows, family, beam_width))
    greedy = result["tables"]["greedy"]
    slices = [name for name in columns_of(greedy) if name.startswith(SLICE)]
    wide.print(_table("slices, greedy NDCG@5", greedy, slices, "greedy", rows, (), beam_width))
    wide.print(gains(rows, family))
    for name, interval in result["held_out_ndcg5"].items():
        difference, relative = (" ".join(written(of).splitlines()) for of in (interval, interval["relative"]))
        console.print(f"held_out_ndcg5.{name}: {difference}, relative {relative}", highlight=False)


def columns_of(policies: dict[str, Found]) -> list[str]:
    """Every column that any policy has, in order."""
    return list(dict.fromkeys(name for found_of in policies.values() for name in found_of))


def samples(policy: str, decode: str, beam_width: int) -> str:
    """Lists that are written, or kept, for the one that is served; nothing for a policy that writes none."""
    if policy in UNWRITTEN:
        return ""
    search = re.search(r"best of (\d+)", policy)
    return search[1] if search else str(beam_width if decode == "beam" else 1)


def marks(rows: Sequence[Found], policy: str, column: str) -> str:
    """A mark for each policy that this one's greedy number differs from."""
    compared = ((against, found(rows, policy, against, "greedy", column)) for against in AGAINST)
    return "".join(MARKS[against] for against, row in compared if row and row.get("significant"))


def written(interval: Found) -> str:
    """Mean, and the interval below it where there is one."""
    mean = f"{interval['mean']:.4f}"
    return f"{mean}\n[{interval['low']:.4f}, {interval['high']:.4f}]" if "low" in interval else mean


def gains(rows: Sequence[Found], family: Sequence[str]) -> Table:
    """What each target gained over SFT, by each way of decoding."""
    heads = ("target", "column", "greedy", "Holm's p", "beam", "one sample", "kind of gain")
    table = Table(*heads, title="minus SFT, pooled over seeds")
    for policy in dict.fromkeys(row["policy"] for row in rows):
        for name in family:
            greedy, beam, sampled = (found(rows, policy, "sft", decode, name) for decode in DECODES)
            if greedy and sampled:
                others = [written(beam) if beam else "", written(sampled)]
                numbers = [written(greedy), f"{greedy['p_holm']:.4f}", *others]
                table.add_row(policy, name, *numbers, verdict(rows, policy, name))
    return table


def show_trades(trades: Sequence[Found], console: Console) -> None:
    """What rewards of accuracy and one other metric gave and cost."""
    heads = ("policy", "metric", "relative to SFT", "NDCG@5", "NDCG@5 minus SFT", "as asked")
    table = Table(*heads, title="greedy; asked: see compare.ASKED")
    for trade in trades:
        numbers = [written(trade[name]) for name in ("relative_to_sft", MAIN, f"{MAIN}_minus_sft")]
        table.add_row(trade["policy"], trade["metric"], *numbers, "yes" if trade["reached"] else "no")
    console.print(table)


def show_sensitivity(found: dict[str, Found], console: Console) -> None:
    """NDCG for each value of each setting."""
    heads = ("setting", "value", "NDCG@5", "minus the preset's", "informative groups")
    table = Table(*heads, title="BLADE, greedy, one setting changed")
    for name, values in found.items():
        for value, of in values.items():
            other = written(of["minus_preset"]) if of["minus_preset"] else ""
            table.add_row(name, value, written(of), other, f"{of['informative_groups']:.2f}")
    console.print(table)


def show_references(results: Found, console: Console) -> None:
    """What a small prior costs static and BLADE."""
    head, *lines = quality_tables.references(results, {})
    table = Table(*head, title="NDCG@5, greedy")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _table(
    title: str,
    policies: dict[str, Found],
    names: Sequence[str],
    decode: str,
    rows: Sequence[Found],
    family: Sequence[str],
    beam_width: int,
) -> Table:
    table = Table("", "samples", *(name.removeprefix(SLICE) for name in names), title=title, show_lines=True)

    def cells(policy: str, numbers: Found) -> Iterator[str]:
        for name in names:
            shown = written(numbers[name]) if name in numbers else ""
            mark = marks(rows, policy, name) if decode == "greedy" and name in family else ""
            yield shown.replace("\n", f" {mark}\n", 1) if mark else shown

    for policy, numbers in policies.items():
        table.add_row(policy, samples(policy, decode, beam_width), *cells(policy, numbers))
    return table
