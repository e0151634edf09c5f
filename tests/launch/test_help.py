"""What ``--help`` of the scripts and the heads of the files in ``cluster/`` show: paths and settings that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from blade_dist.cli import app
from blade_dist.settings.load import load_config
from tests.helpers.paths import ROOT

SCRIPTS = [
    *sorted(path for path in ROOT.glob("launch/*.sh") if path.name != "env.sh"),
    ROOT / "tests/multi_node/run.sh",
]
FILES = [*sorted((ROOT / "cluster").iterdir()), *sorted(ROOT.glob("launch/*.yaml"))]

PATH = re.compile(r"(?<![\w./~-])(?:launch|cluster|tests|benchmarks|blade_dist|docs)/[\w./-]*\w")
"""Of a file of the checkout."""

SETTING = re.compile(r"--set ([\w.]+=\S+)")
COMMAND = re.compile(r"(?:multi_node\.sh|submit\.sh|slurm\.sbatch|-m blade_dist)(?: .*)? (\w+) \S+\.yaml")
"""A blade-dist command, between the script that runs it and its settings."""

COMMANDS = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}


@cache
def shown(file: Path) -> str:
    """A script's help, or the comments of a file that has none."""
    if file in FILES:
        return "\n".join(line for line in file.read_text().splitlines() if re.match(r"\s*#(?!SBATCH)", line))
    command = ["bash", str(file), "--help"]
    if file.name == "multi_node.sh":  # it installs first, and hands its arguments to this
        command = [sys.executable, "-m", "blade_dist.nodes", "--help"]
    wide = {**os.environ, "COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=wide, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("file", [*SCRIPTS, *FILES], ids=lambda path: path.name)
def test_paths_settings_and_commands_that_are_shown_exist(file: Path) -> None:
    text = shown(file)
    assert [path for path in PATH.findall(text) if not (ROOT / path).exists()] == []
    load_config(None, SETTING.findall(text))
    assert set(COMMAND.findall(text)) <= COMMANDS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_shows_an_example(script: Path) -> None:
    assert re.search(rf"Examples?:\s+(\w+=\S+ )*(bash )?{re.escape(str(script.relative_to(ROOT)))}", shown(script))


def test_a_path_that_does_not_exist_is_seen() -> None:
    text = "see tests/test_posterior_update.py, /shared/launch/x.yaml and launch/test.sh --set run.seed=1"
    assert PATH.findall(text) == ["tests/test_posterior_update.py", "launch/test.sh"]
    assert COMMAND.findall("launch/submit.sh --id night --no-wait run /shared/my.yaml --set a=b") == ["run"]
    assert "run" in COMMANDS
