"""An export of the tiny run with weights at random, and an engine that answers by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from blade_dist.data.bundle import DataBundle
from blade_dist.serving.opened import OpenedExport, open_export
from blade_dist.settings import Config
from blade_dist.stages.export import export_stage
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
