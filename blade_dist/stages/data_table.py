"""The table at the end of ``blade-dist data``: what was read, what was dropped and why, what is left. 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

WIDTH = 80

_REASONS = (
    ("low_rating", "dropped_by_min_rating", "rated too low (min_rating)"),
    ("without_rating", None, "without a rating"),
    ("without_title", "dropped_without_title", "item without a title"),
    ("repeated", None, "repeated (repeats)"),
    ("dropped_by_k_core", "dropped_by_k_core", "too few (k_core)"),
    ("with_all_items", "dropped_with_all_items", "user has nearly all items"),
)
"""Count of ``log``, count of ``users`` and ``items``, in words."""


def log_table(card: dict[str, Any]) -> Table:
    """Rows, users and items: read, dropped by reason with an example, kept."""
    table = Table(title="the log", box=box.SIMPLE_HEAD, width=WIDTH, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("rows", "users", "items"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("for example", overflow="fold", ratio=1)
    log, users, items = card["log"], card["users"], card["items"]
    table.add_row("read", *(f"{part['read']:,}" for part in (log, users, items)), "")
    for name, row, example in _dropped(card):
        table.add_row(f"- {name}", *row, escape(example), style="yellow")
    table.add_row("kept", f"{log['left']:,}", f"{users['left']:,}", f"{items['left']:,}", "", style="bold")
    return table


def _dropped(card: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str, str], str]]:
    for reason, seen in card["remarks"]["dropped"].items():
        yield reason, (f"{seen['count']:,}", "", ""), seen["example"]
    for count, both, name in _REASONS:
        rows = card["log"].get(count, 0)
        users, items = (card[part].get(both, 0) if both else 0 for part in ("users", "items"))
        if rows or users or items:
            yield name, (f"{rows:,}", _number(users), _number(items)), card["examples"].get(count, "")


def _number(count: int) -> str:
    return f"{count:,}" if count else ""


def log_lines(card: dict[str, Any]) -> Iterator[str]:
    """What stands below the table: times, the longest prompt, what was repaired, what looks wrong."""
    times, tokens = card["times"], card["tokens"]
    span = f"times from {times['first']} to {times['last']}"
    if times["sessions"] is not None:
        span += f", {times['sessions']:,} sessions (30 minutes apart)"
    yield f"{span}; the longest prompt has {tokens['longest_prompt']} tokens, the longest list {tokens['longest_list']}"
    for what, seen in card["remarks"]["repaired"].items():
        yield f"repaired: {seen['count']:,} {what}: {seen['example']}"
    for line in card["remarks"]["hints"]:
        yield f"note: {line}"
    for line in card["warnings"]:
        yield f"warning: {line}"
