"""The bar of a terminal fits its line; elsewhere plain lines say how much is done and how long the rest takes."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from blade_dist.tracking.bar import Bar
from blade_dist.tracking.listener import StepPrinter

ROW = {"reward": 0.25, "informative_groups": 1.0, "kl": 0.01, "logprob_gap": 2e-7, "loss": 0.5}


def drawn(console: Console) -> list[str]:
    """All lines that were ever on the terminal."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).replace("\r", "\n").splitlines()


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_a_bar_never_takes_a_second_line(width: int) -> None:
    console = terminal(width)
    with Bar("evaluate", 12_000, "lists", console, "starting the engines of " + 20 * "a machine ") as bar:
        bar.at(6_000)
        bar.at(12_000, "the last [part]")
    lines = drawn(console)
    assert max(map(len, lines)) <= width
    assert any("0/12000 -:--:--" in line for line in lines)  # it is there before anything is done
    assert "12000/12000" in lines[-1]
    assert ("the last [part]" in lines[-1]) == (width > 50)
    assert any("starting the engines" in line for line in lines) == (width > 50)


def test_steps_in_a_terminal_fit_80_columns_and_explain_their_words_once() -> None:
    console = terminal(80)
    with StepPrinter(1_000, console, "train") as steps:
        for step in range(3):
            steps.update(step, ROW)
    lines = drawn(console)
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("reward up is good") == 1
    assert "train ━" in lines[-1]
    assert "3/1000" in lines[-1]
    assert lines[-1].endswith("reward 0.25, informative_groups 1")


def test_plain_lines_say_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("blade_dist.tracking.bar.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    with Bar("prior", 1_000, "prompts", console) as bar:
        bar.at(200)  # of an earlier sitting
        for _ in range(4):
            now[0] += 6
            bar.more(100)
    assert drawn(console) == [
        "prior: 400 of 1,000 prompts, about 0:36 left",
        "prior: 600 of 1,000 prompts, about 0:24 left",
    ]


@pytest.mark.parametrize("tells", [True, False])
def test_what_the_first_step_waits_for_is_shown_with_its_time(tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("blade_dist.tracking.listener.time.monotonic", lambda: now[0])
    console = terminal(80) if tells else Console(file=io.StringIO(), width=80)
    with StepPrinter(1_000, console, "train") as steps:
        for second in range(30):
            now[0] = float(second)
            steps.waiting("loading the model" if second > 15 else "")
    lines = drawn(console)
    if tells:
        assert lines[-1].endswith("0/1000 -:--:-- loading the model, 0:29")
    else:
        assert lines == ["train: starting the learners, 0:10 until now", "train: loading the model, 0:20 until now"]
