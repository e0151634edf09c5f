"""The books of a disturbed training, on folders that are written here; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.chaos import ROLES, STARTS, _lasting, evidence, schedule
from benchmarks.disturbed import GROUP, Settings, compared
from blade_dist.posterior.carried import Carried
from blade_dist.store.checkpoints import LEARNERS, checkpoint_folder
from blade_dist.store.run import RunPaths


def trained(folder: Path, steps: list[int], visits: list[int], weight: float) -> Settings:
    """A training with rows of these steps, so many visits to each prompt, and one weight."""
    settings = Settings(folder / "settings.yaml", RunPaths(folder), "blade")
    checkpoint = checkpoint_folder(settings.run.target("blade") / LEARNERS, 4)
    for path in (checkpoint, settings.run.policy("blade"), settings.run.reference):
        path.mkdir(parents=True)
    rows = [{"step": step, "reward": step / 2, "seconds/step": np.random.default_rng().random()} for step in steps]
    pq.write_table(pa.Table.from_pylist(rows), settings.run.target("blade") / "metrics.parquet")
    save_file({"a": torch.tensor([weight, 0.0])}, settings.run.policy("blade") / "model.safetensors")
    save_file({"a": torch.tensor([0.0, 0.0])}, settings.run.reference / "model.safetensors")
    carried = Carried(len(visits), carry=0.5)
    for prompt, count in enumerate(visits):
        for visit in range(count):
            carried.visit(np.array([prompt]), np.full((1, GROUP), visit / 10))
    table = carried.table(np.arange(len(visits)), [])
    with (
        (checkpoint / "estimator.arrow").open("wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    (checkpoint / "manifest.json").write_text("{}")
    return settings


def test_equal_trainings_are_identical_whatever_their_times(tmp_path: Path) -> None:
    ours, whole = (trained(tmp_path / name, [0, 1, 2], [1, 2], 1.0) for name in "ab")
    books = compared(ours, whole)
    assert (books["identical"], books["lost_rows"], books["doubled_rows"]) == (True, 0, 0)
    assert books["weight_difference"] == 0.0
    assert evidence(ours, whole) == (0, 0)


def test_what_is_lost_and_what_is_doubled_is_counted(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", [0, 1, 2], [1, 2, 0], 1.0)
    ours = trained(tmp_path / "ours", [0, 2, 2], [0, 3, 1], 1.5)
    books = compared(ours, whole)
    assert not books["identical"]
    assert (books["lost_rows"], books["doubled_rows"], books["weight_difference"]) == (1, 1, 0.5)
    assert evidence(ours, whole) == (1, 2)


def test_every_role_is_struck_once_a_round_and_the_driver_only_dies() -> None:
    blows = schedule(60, np.random.default_rng(0))
    assert len(blows) == 60
    for start in range(0, 56, len(ROLES)):
        assert {role for role, _ in blows[start : start + len(ROLES)]} == set(ROLES)
    assert sum(hangs for _, hangs in blows) >= 10
    assert not any(hangs for role, hangs in blows if role == "driver")


class Ending:
    """A program of which every start but the ``lasting`` one ends before its time."""

    started = 0

    def __init__(self, lasting: int) -> None:
        self.number, self.lasting, self.killed = Ending.started, lasting, False
        Ending.started += 1

    def wait(self, condition: Any) -> None:
        if self.number != self.lasting:
            raise RuntimeError
        assert condition()

    def kill(self) -> None:
        self.killed = True


@pytest.mark.parametrize("lasting", range(STARTS))
def test_a_run_that_ends_is_counted_and_started_again(lasting: int) -> None:
    Ending.started = 0
    first: Any = Ending(lasting)
    program, ended = _lasting(first, lambda: Ending(lasting), lambda given: given.number == lasting)
    assert (program.number, ended) == (lasting, lasting)
    assert first.killed == (lasting > 0)


def test_a_run_that_ends_every_time_is_given_up() -> None:
    Ending.started = 0
    first: Any = Ending(STARTS)
    with pytest.raises(RuntimeError):
        _lasting(first, lambda: Ending(STARTS), lambda _: True)
    assert Ending.started == STARTS
