"""Seconds of a stage over all its sittings, and the memory that was held."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blade_dist.stages import cost
from blade_dist.stages.cost import StageSeconds, peak_memory
from blade_dist.store.files import read_json, write_json


class Clock:
    """A clock that tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(cost.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_an_interrupted_stage_took_the_sum_of_its_sittings(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "seconds.json"

    def interrupted(error: BaseException) -> None:
        clock.now += 30
        raise error

    for error in (ValueError(), KeyboardInterrupt()):
        seconds = StageSeconds(file)
        with pytest.raises(type(error)), seconds.sitting("train"):
            interrupted(error)
        assert seconds.finished == {}
    seconds = StageSeconds(file)
    with seconds.sitting("train"):
        clock.now += 5
    assert seconds.finished == StageSeconds(file).finished == {"train": 65.0}


def test_a_stage_that_is_skipped_keeps_the_time_that_it_took(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "seconds.json"
    write_json(file, {"data": 7.0})
    for took in (1, 9):
        seconds = StageSeconds(file)
        with seconds.sitting("data"):
            clock.now += took
        assert seconds.finished == {"data": max(7.0, took)}


def test_the_seconds_of_a_sitting_that_is_killed_are_on_disk(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "SAVE_S", 0.01)
    file, saved = tmp_path / "seconds.json", threading.Event()
    write = cost.write_json
    monkeypatch.setattr(cost, "write_json", lambda *content: (write(*content), saved.set()))
    with StageSeconds(file).sitting("train"):
        clock.now += 20
        for _ in range(2):  # the first save may have begun before the clock moved
            saved.clear()
            assert saved.wait(10)
        left = read_json(file)
    write_json(file, left)
    seconds = StageSeconds(file)
    assert seconds.finished == {}
    with seconds.sitting("train"):
        clock.now += 2
    assert seconds.finished == read_json(file) == {"train": 22.0}


def test_an_error_is_raised_as_it_is_while_the_seconds_are_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One writer at a time: a second one would find the file's temporary name gone, and hide the error."""
    monkeypatch.setattr(cost, "SAVE_S", 0.01)
    saving, writers, most = threading.Event(), 0, 0
    write = cost.write_json

    def slow(*content: Any) -> None:
        nonlocal writers, most
        writers += 1
        most = max(most, writers)
        saving.set()
        time.sleep(0.1)
        write(*content)
        writers -= 1

    monkeypatch.setattr(cost, "write_json", slow)

    def fail() -> None:
        assert saving.wait(10)
        raise ValueError("the stage's")

    with pytest.raises(ValueError, match="the stage's"), StageSeconds(tmp_path / "seconds.json").sitting("train"):
        fail()
    assert most == 1


def test_memory_that_is_held_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SAMPLE_S", 0.01)
    with peak_memory() as peak:
        held, deadline = np.ones(2**22), threading.Event()
        deadline.wait(0.3)
    assert peak[0] > held.nbytes
