"""Lines for people are broken to the terminal's width, commands so that a shell can read them, and logs keep theirs."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.console import Console

from blade_dist.tracking.say import Voice, say, say_command, say_end

LINE = "data: runs/mine/a-long-name/data holds 1,200 of 1,200 interactions read; 60 users, [40] items in 4 groups"
COMMAND = ["blade-dist", "evaluate", "my own.yaml", "--checkpoint", "runs/mine/blade/policy", "--against", "runs/sft"]


def said(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    say(console, LINE)
    say_command(console, "next: ", COMMAND)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_has_whole_lines() -> None:
    assert said(terminal=False).splitlines() == [LINE, f"next: {shlex.join(COMMAND)}"]


def test_a_terminal_has_none_that_is_too_long() -> None:
    text = said(terminal=True)
    lines, command = text.partition("next: ")[::2]
    assert max(map(len, text.splitlines())) <= 80
    assert " ".join(lines.split()) == LINE
    assert shlex.split(command.replace("\\\n", "")) == COMMAND  # as a shell joins them


@pytest.mark.parametrize("quiet", [True, False])
def test_a_quiet_voice_says_the_last_lines(quiet: bool) -> None:
    file = io.StringIO()
    voice = Voice(file, quiet)
    say(voice, "a line")
    say_end(voice, "sft", "made", "a number")
    assert file.getvalue() == "a line\n" * (not quiet) + "sft: made\nsft: a number\n"
