"""What a command says on a console: lines that stay as they were written, and tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def say(console: Console, line: str) -> None:
    """Prints one line as it is.

    Rich would read a path with ``[...]`` in it as a style, colour its numbers and break it at the console's width; a
    line that a user copies, or that another program reads from a log, must survive that.
    """
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def show_table(console: Console, table: Table, width: int) -> None:
    """Prints a table, ``width`` characters wide at most where no terminal says how many it has (80 by default)."""
    wide = console if console.is_terminal else Console(file=console.file, width=width)
    wide.print(table)
