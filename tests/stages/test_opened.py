"""What is tried before anything starts: metrics of ours in this process, functions of the user's in another."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.settings.load import load_config
from blade_dist.stages.opened import check_metrics


def settings(folder: Path, *changes: str) -> Config:
    plain = ("lists.k=3", "reward.weights={hr@3: 1}", "evaluate.metrics=[hr@3]")
    return load_config(None, [f"run.dir={folder / 'run'}", *plain, *changes])


def test_without_a_function_of_the_user_no_process_starts(
    small: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    check_metrics(settings(tmp_path), small)


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ("reward.weights={'leaves:f': 1}", "reward.weights"),
        ("reward.at_most={'leaves:f': 1}", "reward.at_most"),
        ("evaluate.metrics=['leaves:f']", "evaluate.metrics"),
        ("evaluate.select_by={'leaves:f': 1}", "evaluate.select_by"),
    ],
)
def test_a_function_that_ends_its_process_is_named_where_it_stands(
    small: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, setting: str
) -> None:
    (tmp_path / "leaves.py").write_text("import os\ndef f(lists):\n    os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=rf"^{setting} leaves:f: it ended its process with exit code 3") as error:
        check_metrics(settings(tmp_path, change), small)
    (kept,) = (tmp_path / "run" / "incidents").glob("lists-command-*.arrow")
    assert str(kept) in str(error.value)
