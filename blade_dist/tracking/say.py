"""What a command says on a console: lines that stay as they were written, the last lines of a stage, and tables."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table

from blade_dist.tracking.lasting import lasting

INDENT = "  "
"""Of a line that goes on in a terminal."""


class Voice(Console):
    """A command's console; a quiet one shows nothing but the last lines of a stage, a verbose one all there is."""

    def __init__(self, file: TextIO, quiet: bool, verbose: bool = False) -> None:
        """``file``: where the terminal is, whatever becomes of ``sys.stdout``."""
        file = lasting(file)
        super().__init__(file=file, quiet=quiet)
        self.verbose = verbose
        self.last_lines = Console(file=file)


def say(console: Console, line: str) -> None:
    """Prints one line as it is; in a terminal it is broken between words where it is too long.

    Rich would read a path with ``[...]`` in it as a style, colour its numbers and break it at the console's width; a
    line that another program reads from a log must survive that, and so must a path that a user copies.
    """
    _print(console, _broken(line, console.width) if console.is_terminal else line)


def say_whole(console: Console, line: str) -> None:
    """Prints one line as it is, for another program to read, however wide the terminal is."""
    _print(console, line)


def say_command(console: Console, before: str, command: Sequence[str]) -> None:
    """Says which command to type; where it is too long for a terminal, with a backslash at the end of each line."""
    line = f"{before}{shlex.join(command)}"
    if console.is_terminal and len(line) > console.width:
        lines = [before.rstrip() or INDENT.rstrip()]
        for word in map(shlex.quote, command):
            if len(lines[-1]) + len(word) + 3 > console.width:
                lines.append(INDENT + word)
            else:
                lines[-1] += f" {word}"
        line = " \\\n".join(lines)
    _print(console, line)


def say_end(console: Console, stage: str, made: str, *numbers: str) -> None:
    """Says at a stage's end what was made and where, and the numbers that matter, also on a quiet :class:`Voice`.

    What comes next is said by the command, which knows what its user typed.
    """
    for line in (made, *numbers):
        say(last_lines(console), f"{stage}: {line}")


def last_lines(console: Console) -> Console:
    """Where the last lines of a stage go."""
    return console.last_lines if isinstance(console, Voice) else console


def is_verbose(console: Console) -> bool:
    """Whether a reader wants all there is."""
    return isinstance(console, Voice) and console.verbose


def show_table(console: Console, table: Table, width: int) -> None:
    """Prints a table, ``width`` characters wide at most where no terminal says how many it has (80 by default)."""
    wide = console if console.is_terminal else Console(file=console.file, width=width, quiet=console.quiet)
    wide.print(table)


def _broken(line: str, width: int) -> str:
    """
    >>> _broken("data: runs/mine/data holds 12 rows", 24).splitlines()
    ['data: runs/mine/data', '  holds 12 rows']
    """
    return "\n".join(
        textwrap.wrap(line, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    )


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
