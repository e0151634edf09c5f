"""The step log and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from blade_dist.tracking.listener import StepPrinter, describe
from blade_dist.tracking.step_log import StepLog, drop_rows_from


def test_every_step_is_a_row(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "metrics.parquet", tmp_path / "tensorboard")
    for step in range(3):
        log.record(step, {"reward": step / 2, "seconds/learn": 1.0})
    log.close()
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["reward"] for row in rows] == [0, 0.5, 1]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_resumed_run_has_no_double_rows(tmp_path: Path) -> None:
    first = StepLog(tmp_path / "metrics.parquet", None)
    for step in range(5):
        first.record(step, {"reward": 1.0})
    first.close()
    again = StepLog(tmp_path / "metrics.parquet", None)
    again.record(3, {"reward": 2.0, "new": 5.0})
    again.close()
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [(row["step"], row["reward"]) for row in rows] == [(0, 1), (1, 1), (2, 1), (3, 2)]
    assert [row["new"] for row in rows] == [None, None, None, 5]
    assert [step for step, _ in again.rows_after(1)] == [2, 3]


def test_steps_that_will_be_made_again_are_not_shown_before(tmp_path: Path) -> None:
    file = tmp_path / "metrics.parquet"
    drop_rows_from(file, 3)
    log = StepLog(file, None)
    for step in range(5):
        log.record(step, {"reward": 1.0})
    log.close()
    drop_rows_from(file, 3)
    assert [step for step, _ in StepLog(file, None).rows_after(-1)] == [0, 1, 2]
    drop_rows_from(file, 0)
    assert not file.exists()


def test_lines_say_what_matters() -> None:
    row = {"reward": 0.25, "informative_groups": 1.0, "seconds/learn": 2.0, "seconds/push": 0.5, "lr": 1e-3}
    assert describe(row) == "reward 0.25, informative_groups 1, learn 2.00 push 0.50 s"
    console = Console(record=True, width=200, force_terminal=False)
    with StepPrinter(10, console, "train") as progress:
        progress.update(0, row)
        progress.update(9, row)
    text = console.export_text()
    assert "step 1/10: reward 0.25" in text
    assert "step 10/10: reward 0.25" in text
