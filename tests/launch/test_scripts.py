"""The launch scripts: one clear line where something is missing, nothing done twice, nothing half-done kept."""

import importlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

# Stands in for Python: notes its calls, and is its own virtual environment.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
  -V) echo "Python 3.11.9" ;;
  *print*) echo 3.11 ;;
  *ensurepip*) exit "${NO_VENV:-0}" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *--dry-run*torch==*) exit "${NO_TORCH:-0}" ;;
  *wheels.txt) exit "${NO_NETWORK:-0}" ;;
esac
"""

without_gpu = pytest.mark.skipif(
    Path("/proc/driver/nvidia/gpus").exists() or shutil.which("nvidia-smi") is not None,
    reason="a machine with a GPU installs other packages",
)


class Checkout:
    """A copy of what install.sh reads, with a stand-in for Python."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a checkout"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.python = root / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        self.calls = root / "calls"

    def install(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        known = {"PATH": os.environ["PATH"], "PYTHON": str(self.python), "CALLS": str(self.calls)}
        command = ["bash", str(self.root / "launch" / "install.sh"), *arguments]
        return subprocess.run(command, env=known | environment, cwd="/", capture_output=True, text=True, check=False)

    def installed(self) -> list[str]:
        """The last argument of each pip call that installs."""
        lines = self.calls.read_text().splitlines()
        return [Path(line.split()[-1]).name for line in lines if "pip install" in line and "--dry-run" not in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


FULL = ["wheels.txt", "sources.txt", "checkout"]


@without_gpu
def test_install_does_all_once(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    assert checkout.installed() == FULL
    assert checkout.install().returncode == 0
    assert checkout.installed() == []


@without_gpu
def test_install_adds_development_tools_to_what_is_there(checkout: Checkout) -> None:
    checkout.install()
    assert checkout.install("--dev").returncode == 0
    assert checkout.installed() == ["requirements-dev.lock"]
    checkout.install()
    assert checkout.installed() == []


@without_gpu
def test_install_follows_a_changed_pin_in_place(checkout: Checkout) -> None:
    checkout.install()
    lock = checkout.root / "launch" / "requirements-cpu.lock"
    lock.write_text(lock.read_text().replace("tqdm==", "tqdm==0."))
    checkout.install()
    assert checkout.installed() == FULL
    assert "-m venv" not in checkout.calls.read_text()


@without_gpu
def test_install_starts_over_after_a_failed_step(checkout: Checkout) -> None:
    failed = checkout.install(NO_NETWORK="1")
    assert failed.returncode == 1
    assert "install.log" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert checkout.install().returncode == 0
    assert checkout.installed() == FULL
    assert "-m venv" in checkout.calls.read_text()


@without_gpu
def test_install_starts_over_after_the_folder_moved(checkout: Checkout) -> None:
    checkout.install()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.install()
    assert "-m venv" in checkout.calls.read_text()


@without_gpu
def test_install_names_the_index_before_it_fetches_anything(checkout: Checkout) -> None:
    refused = checkout.install(NO_TORCH="1")
    assert refused.returncode == 2
    assert "PIP_EXTRA_INDEX_URL" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert checkout.installed() == []


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {"PYTHON": "/nonexistent"}, "PYTHON=/nonexistent is not a Python 3.11 or 3.12"),
        ([], {"NO_VENV": "1"}, "has no venv module"),
        (["--fast"], {}, "--fast: unknown"),
    ],
)
def test_install_says_in_one_line_what_is_missing(
    checkout: Checkout, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    refused = checkout.install(*arguments, **environment)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_install_leaves_a_foreign_environment_alone(checkout: Checkout) -> None:
    kept = checkout.root / ".venv" / "kept"
    kept.parent.mkdir()
    kept.touch()
    refused = checkout.install()
    assert refused.returncode == 2
    assert "move it away" in refused.stderr
    assert kept.exists()


@pytest.mark.parametrize("script", ["install.sh", "quickstart.sh", "test.sh"])
def test_help_shows_usage_and_examples_from_anywhere(script: str) -> None:
    shown = subprocess.run(
        ["bash", str(ROOT / "launch" / script), "--help"], cwd="/", capture_output=True, text=True, check=True
    )
    assert "Usage: launch/" + script in shown.stdout
    assert "Examples:" in shown.stdout


def sourced(home: Path, **environment: str) -> list[str]:
    """RAY_AUTH_MODE and RAY_AUTH_TOKEN after env.sh, which must print nothing itself."""
    command = f'source "{ROOT}/launch/env.sh"; echo "$RAY_AUTH_MODE:${{RAY_AUTH_TOKEN:-}}"'
    known = {"PATH": os.environ["PATH"], "HOME": str(home)}
    shown = subprocess.run(
        ["bash", "-euc", command], env=known | environment, capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    assert shown.stdout.count("\n") == 1
    return shown.stdout.strip().split(":")


def test_a_run_gets_its_own_ray_token(tmp_path: Path) -> None:
    mode, token = sourced(tmp_path)
    assert mode == "token"
    assert len(bytes.fromhex(token)) == 32
    assert sourced(tmp_path)[1] != token


@pytest.mark.parametrize(
    ("environment", "token"),
    [
        ({"RAY_AUTH_TOKEN": "mine"}, "mine"),
        ({"RAY_AUTH_TOKEN_PATH": "/some/file"}, ""),
        ({"RAY_ADDRESS": "auto"}, ""),
        ({"RAY_AUTH_MODE": "disabled"}, ""),
    ],
)
def test_a_ray_token_that_is_set_up_is_kept(tmp_path: Path, environment: dict[str, str], token: str) -> None:
    assert sourced(tmp_path, **environment)[1] == token


def test_a_saved_ray_token_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("saved")
    assert sourced(tmp_path)[1] == ""


def entry_points() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["scripts"], *project.get("entry-points", {}).values()]
    return [target for group in groups for target in group.values()]


@pytest.mark.parametrize("target", entry_points())
def test_entry_points_lead_to_functions(target: str) -> None:
    module, _, name = target.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
