"""Warnings of a training that goes wrong: said once, and marked in the rows."""

from __future__ import annotations

from functools import partial
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from blade_dist.settings import Config
from blade_dist.tracking.alarms import RULES, Alarms
from blade_dist.tracking.listener import StepPrinter
from blade_dist.tracking.step_log import StepLog

LIMITS = {"logprob_gap": 5e-5, "kl": 5.0, "length": 2.0, "reward": 0.5, "miscalibration": 0.8}
WINDOW = 4
GOOD = {"logprob_gap": 1e-6, "kl": 0.2, "list_tokens": 30.0, "reward": 0.4, "posterior/miscalibration": 0.3}


def warned(rows: list[dict]) -> dict[str, int]:
    """The first row at which each rule is broken."""
    alarms, first = Alarms(LIMITS, WINDOW), {}
    for number, row in enumerate(rows):
        first = dict.fromkeys(alarms.see(row), number) | first
    return first


def test_a_good_run_is_not_warned_of() -> None:
    assert warned([GOOD] * 30) == {}
    assert warned([GOOD | {"reward": 0.1 + 0.01 * number, "kl": 0.1 * number} for number in range(30)]) == {}


@pytest.mark.parametrize(
    ("rule", "column", "bad"),
    [
        ("logprob_gap", "logprob_gap", 1e-4),
        ("kl", "kl", 9.0),
        ("length", "list_tokens", 90.0),
        ("length", "list_tokens", 9.0),
        ("reward", "reward", 0.05),
        ("miscalibration", "posterior/miscalibration", 0.95),
    ],
)
def test_each_rule_is_broken_by_its_column_alone(rule: str, column: str, bad: float) -> None:
    rows = [GOOD] * 10 + [GOOD | {column: bad}] * WINDOW
    assert list(warned(rows)) == [rule]


def test_a_fall_below_zero_counts_from_the_best_reward() -> None:
    rising = [GOOD | {"reward": -1.0 + 0.1 * number} for number in range(6)]
    assert "reward" not in warned(rising)
    assert "reward" in warned(rising + [GOOD | {"reward": -2.0}] * WINDOW)


def test_nothing_is_said_before_a_window_is_full_or_of_what_is_not_measured() -> None:
    assert warned([GOOD | {"kl": 9.0}] * (WINDOW - 1)) == {}
    assert warned([{"reward": 0.4, "kl": None}] * 20) == {}


def test_every_setting_has_a_rule_and_every_rule_a_setting() -> None:
    config = Config.model_validate({"lists": {"constrain": "none"}})
    assert config.warn_limits.keys() == RULES.keys() == LIMITS.keys()
    assert config.warn_limits["logprob_gap"] == pytest.approx(0.5 * config.logprob_tolerance)
    assert "length" not in Config().warn_limits
    assert "kl" not in Config.model_validate({"warn": {"kl": None}}).warn_limits


def test_a_warning_is_said_once_and_marked_in_the_rows(tmp_path: Path) -> None:
    make = partial(Alarms, LIMITS, WINDOW)
    log, out = StepLog(tmp_path / "metrics.parquet", None, make), StringIO()
    rows = [GOOD] * 6 + [GOOD | {"kl": 9.0}] * 8
    printer = StepPrinter(len(rows), Console(file=out, width=400), "train", [make().new])
    for step, row in enumerate(rows):
        log.record(step, row)
        printer.update(step, row)
    # a lost attempt: its rows are made again, and the warnings with them
    for step in range(9, len(rows)):
        log.record(step, rows[step])
    log.close()
    assert out.getvalue().count("warning") == 1
    assert "train: warning at step 9: kl is 6.8 nats per token" in out.getvalue()
    marks = pq.read_table(tmp_path / "metrics.parquet")["warning/kl"].to_pylist()
    assert marks == [None] * 8 + [1.0] * 6
