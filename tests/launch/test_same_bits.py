"""``launch/same_bits.py`` sees every difference between two runs but their timings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from blade_dist.settings.load import load_config
from tests.helpers.paths import ROOT

SCRIPT = ROOT / "launch" / "same_bits.py"


def load() -> Any:
    """The script as a module: ``launch/`` is no package."""
    spec = importlib.util.spec_from_file_location("same_bits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


same_bits = load()

ROWS = {"step": [0, 1, 2], "reward": [0.1, float("nan"), 0.3], "seconds/step": [1.0, 2.0, 3.0]}


def write(run: Path, rows: dict[str, list], weights: dict[str, np.ndarray], lists: list[list[float]]) -> Path:
    (run / "blade" / "policy").mkdir(parents=True)
    (run / "data").mkdir()
    pq.write_table(pa.table({**rows, "lists_per_second": [run.stat().st_ino] * 3}), run / "blade" / "metrics.parquet")
    save_file(weights, run / "blade" / "policy" / "model.safetensors")
    table = pa.table({"rewards": lists})
    with pa.ipc.new_file(str(run / "prior.arrow"), table.schema) as file:
        file.write_table(table)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "old", ROWS, {"head": np.ones((2, 2), np.float32)}, [[0.5, float("nan")], [0.25]])


def differences(old: Path, new: Path) -> dict[str, str]:
    return {name: difference for name, _, difference in same_bits._compare(old, new) if difference}


def test_equal_runs_are_equal_whatever_time_they_took(run: Path, tmp_path: Path) -> None:
    rows = ROWS | {"seconds/step": [9.0, 9.0, 9.0]}
    new = write(tmp_path / "new", rows, {"head": np.ones((2, 2), np.float32)}, [[0.5, float("nan")], [0.25]])
    assert [name for name, *_ in same_bits._compare(run, new)] == [
        *("prior.arrow", "blade/metrics.parquet", "blade/policy/model.safetensors")
    ]
    assert differences(run, new) == {}


def test_the_last_bit_counts_and_the_earliest_row_is_named(run: Path, tmp_path: Path) -> None:
    rows = ROWS | {"reward": [0.1, 0.0, np.nextafter(0.3, 1)]}
    new = write(tmp_path / "new", rows, {"head": np.ones((2, 2), np.float32)}, [[0.5, float("nan")], [-0.25]])
    assert differences(run, new) == {
        "blade/metrics.parquet": "column reward, step 1: nan, then 0.0",
        "prior.arrow": "column rewards, row 1: [0.25], then [-0.25]",
    }
    assert differences(new, run)["blade/metrics.parquet"] == "column reward, step 1: 0.0, then nan"


def test_a_weight_a_column_and_a_file_are_missed(run: Path, tmp_path: Path) -> None:
    rows = {name: values for name, values in ROWS.items() if name != "reward"}
    weights = {"head": np.array([[1, 1], [1, 1.5]], np.float32)}
    new = write(tmp_path / "new", rows, weights, [])
    (new / "prior.arrow").unlink()
    assert differences(run, new) == {
        "blade/metrics.parquet": "columns differ: ['reward']",
        "blade/policy/model.safetensors": "head: up to 0.5 apart",
        "prior.arrow": "NEW has no such file",
    }


@pytest.mark.parametrize("case", same_bits.CASES)
def test_every_case_is_a_run_that_can_be_loaded(case: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(same_bits.TINY)
    changes = [f"{name}={value}" for name, value in same_bits.CASES[case].items()]
    assert load_config(tmp_path / "settings.yaml", changes).train.steps <= 10


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "no-such-revision", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no-such-revision: neither a folder with blade_dist/ nor a git revision")
