"""A table as rows of text, the head first, and how a page and a terminal show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Result = dict[str, Any]
"""A result file, or a part of it."""
Rows = list[list[str]]
TITLES = {
    "sft": "SFT",
    "static": "static (tau = 0)",
    "static, refreshed": "static, references of the policy every 20 steps",
    "bond": "J-BOND",
    "grpo": "GRPO (raw reward)",
    "best_of_n_sft": "SFT on the best of each group",
    "blade": "BLADE",
    **{f"sft best of {n}": f"SFT, best of {n} by co-occurrence" for n in (2, 4, 8, 16)},
    **{f"sft best of {n} (oracle)": f"SFT, best of {n} by the held-out items (oracle)" for n in (2, 4, 8, 16)},
}
WIDTH = 240
"""Characters of a line where no terminal says how many it has."""


def title(policy: str) -> str:
    """What a reader sees for a policy."""
    return TITLES.get(policy, policy)


def markdown(rows: Rows) -> str:
    """The table as a page has it; nothing of no rows."""
    if not rows:
        return ""
    head, *lines = rows
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *lines])


def show(tables: Mapping[str, Rows], console: Console) -> None:
    """Prints each table under its name."""
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH)
    for name, (head, *lines) in tables.items():
        table = Table(*head, title=name)
        for line in lines:
            table.add_row(*(cell.replace("[", r"\[") for cell in line))  # rich reads "[0.1, 0.2]" as markup
        wide.print(table)


def interval(of: Result, digits: int = 4) -> str:
    """Mean, low, high."""
    mean, low, high = (f"{of[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def signed(of: Result, form: str = ".4f") -> str:
    """A difference: mean, low, high, each with its sign."""
    mean, low, high = (f"{of[name]:+{form}}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def mean(of: Result, name: str) -> str:
    """A column's mean; nothing where the policy has none."""
    return f"{of[name]['mean']:.3f}" if name in of else ""
