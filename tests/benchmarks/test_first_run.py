"""The recorded terminal of a new user: what is kept of it, and the page that is made of that."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path

import pyarrow.csv
import pytest
from rich.console import Console

from benchmarks.first_run import BARS, PAGE, YAML, Step, a_third, following, page_of
from benchmarks.terminal import COLUMNS, LINES, Frame, Recording, Screen, record
from blade_dist.tracking.bar import Bar
from blade_dist.tracking.say import say, say_command
from tests.docs.naming import check_line


def drawn(*lines: str) -> Screen:
    """A terminal in which lines were said above a bar that has not ended."""
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=COLUMNS, height=LINES)
    bar = Bar("train", 40, "steps", console)
    bar.__enter__()
    for number, line in enumerate(lines):
        say(console, line)
        bar.at(number)
    bar._bar.refresh()
    screen = Screen()
    screen.feed(said.getvalue().replace("\n", "\r\n").encode())
    bar.__exit__()
    return screen


def test_a_bar_is_on_the_screen_once_below_all_that_was_said() -> None:
    lines = drawn("one", "two", "three").shown.splitlines()
    assert lines[:3] == ["one", "two", "three"]
    assert lines[3].startswith("train ━")
    assert lines[3].split()[2] == "2/40"
    assert len(lines) == 4


def test_what_scrolls_away_is_kept() -> None:
    screen = drawn(*(f"line {number}" for number in range(60)))
    assert len(screen.shown.splitlines()) == LINES
    assert screen.whole.splitlines()[:60] == [f"line {number}" for number in range(60)]


def test_the_middle_is_that_of_the_stage_s_bar() -> None:
    frames = [Frame(seconds, f"said\n{stage} ━━━━") for seconds, stage in enumerate(("prior", *["train"] * 5))]
    recording = Recording([Frame(0, "train: a line ━"), *frames], "", 0)
    assert recording.middle("train") == frames[3]
    assert recording.middle("sft") is None


@pytest.mark.slow
def test_a_command_sees_a_terminal_and_all_that_it_writes_is_read(tmp_path: Path) -> None:
    command = (
        "import os, sys, time; print(os.get_terminal_size(), sys.stdin.isatty()); time.sleep(1.5); print('end' * 9)"
    )
    recording = record([sys.executable, "-c", command + "; sys.exit(3)"], tmp_path, os.environ | {"COLUMNS": "20"})
    size = f"os.terminal_size(columns={COLUMNS}, lines={LINES}) True"
    assert recording.text.splitlines() == [size, "end" * 9]
    assert recording.code == 3
    assert size in [frame.text for frame in recording.frames]


def test_what_comes_next_is_typed_as_it_is_said() -> None:
    command = ["blade-dist", "evaluate", "my file.yaml", "--checkpoint", "a/" * 20, "--against", "b/" * 20]
    for width in (80, 400):
        said = io.StringIO()
        say_command(Console(file=said, force_terminal=True, width=width), "next: ", command)
        typed = following(f"train: done\n{said.getvalue()}")
        assert shlex.split(typed.replace("\\\n", " ")) == command
        assert max(map(len, typed.splitlines())) <= width
    with pytest.raises(RuntimeError, match="no command"):
        following("export: next: nothing")


def test_a_third_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,a,b\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId\n" + "".join(f"{user},1\n" for user in range(1, 8)))
    a_third(tmp_path, tmp_path / "out")
    assert pyarrow.csv.read_csv(tmp_path / "out" / "ratings.csv")["userId"].to_pylist() == [3, 6]
    assert (tmp_path / "out" / "movies.csv").is_file()


def test_a_page_has_a_bar_and_the_end_of_each_stage() -> None:
    step = Step("blade-dist train my.yaml", Recording([Frame(12.2, "train: does\ntrain ━━ 3/6")], "train: all done", 0))
    page = page_of(YAML, [step])
    assert f"```yaml\n{YAML}```" in page
    assert "After 12 seconds:\n\n```text\n$ blade-dist train my.yaml\ntrain: does\ntrain ━━ 3/6\n```\n" in page
    assert page.endswith("At the end:\n\n```text\n$ blade-dist train my.yaml\ntrain: all done\n```\n")


class TestPage:
    """The one that is in the docs."""

    def test_it_is_of_these_settings_and_commands(self) -> None:
        page = PAGE.read_text()
        assert f"```yaml\n{YAML}```" in page
        stages = [block.partition("\n")[0] for block in page.split("\n## ")[1:]]
        assert stages == [*BARS, "export"]
        typed = [line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ ") and line[-1] != "\\"]
        for line in typed:
            check_line(line)

    def test_every_stage_shows_its_bar_and_no_line_is_wider_than_the_terminal(self) -> None:
        shown = [block.partition("\n```")[0] for block in PAGE.read_text().split("```text\n")[1:]]
        lines = [line for block in shown for line in block.splitlines()]
        assert [line for line in lines if len(line) > COLUMNS] == []
        for stage in (stage for stages in BARS.values() for stage in stages):
            assert any(Frame(0, block).has_bar(stage) for block in shown), stage
