"""An export of the tiny run with weights at random, and an engine that answers by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from blade_dist.data.bundle import DataBundle
from blade_dist.serving.opened import OpenedExport, open_export
from blade_dist.settings import Config
from blade_dist.stages.export import export_stage
from tests.helpers.paths import ROOT
from tests.helpers.runs import random_policy


@pytest.fixture(scope="session")
def made(tiny_config: Config, tiny_data: DataBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    checkpoint = random_policy(tiny_config, tiny_data, folder / "policy", tied=True)
    (checkpoint / "modeling.py").write_text("raise SystemExit")
    (checkpoint / "training_args.bin").write_bytes(b"pickled")
    export_stage(tiny_config, checkpoint, folder / "served", Console(quiet=True))
    return folder / "served"


@pytest.fixture(scope="session")
def opened(made: Path) -> OpenedExport:
    return open_export(made)


@pytest.fixture(scope="session")
def histories(opened: OpenedExport) -> list[list[str]]:
    ids = opened.catalog.item_ids.tolist()
    return [[ids[(3 * row + place * (1 + row % 5)) % 40] for place in range(1 + row % 12)] for row in range(50)]


@pytest.fixture(scope="session")
def wanted(made: Path, histories: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What ``recommend`` writes."""
    folder = tmp_path_factory.mktemp("wanted")
    pq.write_table(pa.table({"history": histories}), folder / "in.parquet")
    command = [sys.executable, "-m", "blade_dist", "recommend", str(made), "--histories", str(folder / "in.parquet")]
    command += ["--out", str(folder / "out.parquet"), "--threads", "1"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    return pq.read_table(folder / "out.parquet").to_pylist()


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no engine start."""

    def started(*_: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr("blade_dist.rollouts.engine.Engine.__init__", started)
    # the environment of this process is that of other tests too
    monkeypatch.setattr("blade_dist.rollouts.environment.make_ready", lambda *_: None)
