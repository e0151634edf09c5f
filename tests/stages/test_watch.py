"""An actor that hangs is ended, and another one answers what it was asked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from blade_dist.cluster.runtime import beside_driver
from blade_dist.settings import Config
from blade_dist.stages.watch import LIFE, Watch, watched

pytestmark = pytest.mark.slow
LIMIT_S = 8.0


class Worker:
    """Sleeps the first time that it is asked to, for longer than anybody waits."""

    def __init__(self, marks: Path) -> None:
        self._marks = marks
        self.busy_since: float | None = None
        self.busy_with: str | None = None

    def pid(self) -> int:
        return os.getpid()

    def work(self) -> str:
        if not self._marks.exists():
            self._marks.touch()
            self.busy_since, self.busy_with = time.monotonic(), "mine:slow (called with the lists in lists.arrow)"
            time.sleep(600)
        return "done"


@pytest.fixture
def worker(ray_session: None, tmp_path: Path) -> Any:
    options = beside_driver() | {"max_task_retries": 1}
    actor = ray.remote(concurrency_groups={LIFE: 1})(Worker).options(**options).remote(tmp_path / "asked")
    yield actor
    ray.kill(actor)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"run": {"dir": tmp_path}, "ray": {"silence_s": LIMIT_S}})


def test_a_stopped_process_is_replaced(worker: Any, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    with watched(config, the_worker=worker):
        pid = ray.get(worker.pid.remote())
        time.sleep(3.0)  # until it has said who it is
        os.kill(pid, signal.SIGSTOP)
        assert ray.get(worker.pid.remote(), timeout=60) != pid
    (incident,) = (config.run.dir / "incidents").glob("*-the-worker.txt")
    assert f"the worker (process {pid}) gave no sign of life within ray.silence_s = 8 s" in incident.read_text()
    assert f"(see {incident})" in caplog.text


def test_work_without_an_end_is_given_to_another(worker: Any, config: Config) -> None:
    with Watch("the worker", worker, config, busy_limit_s=1.0):
        assert ray.get(worker.work.remote(), timeout=60) == "done"
    (incident,) = (config.run.dir / "incidents").iterdir()
    said = "was at mine:slow (called with the lists in lists.arrow) for longer than reward.timeout_s = 1 s"
    assert said in incident.read_text()
    assert "in work" in incident.read_text() or "work (" in incident.read_text()  # its stacks
