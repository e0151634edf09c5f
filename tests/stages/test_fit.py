"""The learners are started again while they get further, and not where it would not help; Ray Train is a double."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import CheckpointConfig

from blade_dist.cluster.signals import Stopped
from blade_dist.errors import DivergedError, FullDiskError, UserError
from blade_dist.settings import Config
from blade_dist.stages import fit as stage

SILENCE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
Attempt = tuple[int, Exception | None]
"""The newest step at its end, and why it ended."""
DOING = SimpleNamespace(remote=lambda: "loading the model")


class Listener:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.waited_after: list[int] = []

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def waiting(self, doing: str) -> None:
        assert doing == "loading the model"
        self.waited_after.append(len(self.steps))

    def update(self, step: int, _: dict[str, float]) -> None:
        self.steps.append(step)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs these attempts one after the other; what came of the last, the shown steps, and how many there were."""
    monkeypatch.setattr(stage, "POLL_S", 0.01)
    monkeypatch.setattr(stage, "lost_nodes", lambda _: [])
    monkeypatch.setenv(SILENCE, "600")
    monkeypatch.setattr(stage, "ray", SimpleNamespace(put=lambda given: given, get=lambda given: given))
    newest, begun, listener = [-1], [], Listener()

    def trainer(attempts: Iterator[Attempt]) -> Any:
        def fit() -> str:
            begun.append(os.environ[SILENCE])
            newest[0], error = next(attempts)
            if error is not None:
                raise error
            return "result"

        return SimpleNamespace(fit=fit)

    def run(attempts: list[Attempt], **train: float) -> str:
        config = Config.model_validate({"run": {"dir": tmp_path}, "train": train, "ray": {"silence_s": 33.0}})
        left = iter(attempts)
        monkeypatch.setattr(stage, "TorchTrainer", lambda *_, **__: trainer(left))
        rows = SimpleNamespace(remote=lambda shown: [(step, {}) for step in range(shown + 1, newest[0] + 1)])
        job = SimpleNamespace(tracker=SimpleNamespace(rows_after=rows, doing=DOING))
        roles = [SimpleNamespace(gpus=0, bundle={"CPU": 1}, selector={}, node=SimpleNamespace(id="a"))]
        how: Any = (stage, job, config, tmp_path / "blade" / "learners", roles, CheckpointConfig(), listener, print)
        return str(stage.fit(*how))

    run.begun, run.steps = begun, listener.steps  # type: ignore[attr-defined]
    return run


def test_failures_with_steps_between_end_nothing(run: Any) -> None:
    attempts: list[Attempt] = [(step, RuntimeError("a rank died")) for step in range(8)]
    assert run([*attempts, (9, None)], max_failures=1) == "result"
    assert run.steps == list(range(10))
    assert len(run.begun) == 9


def test_failures_in_a_row_end_the_run_with_the_last_one(run: Any) -> None:
    with pytest.raises(RuntimeError, match="the fourth"):
        run([(5, RuntimeError("a")), (6, RuntimeError("b")), (6, RuntimeError("c")), (6, RuntimeError("the fourth"))])
    assert len(run.begun) == 4


@pytest.mark.parametrize("kind", [DivergedError, FullDiskError])
def test_what_another_start_would_not_help_names_the_stage(run: Any, kind: type[UserError], tmp_path: Path) -> None:
    with pytest.raises(kind) as error:
        run([(5, kind("no room"))], max_failures=9)
    assert str(error.value) == f"{tmp_path / 'blade'}: no room"
    assert len(run.begun) == 1


def test_what_a_user_has_to_mend_is_not_tried_again(run: Any) -> None:
    with pytest.raises(UserError, match="mend it"):
        run([(5, UserError("mend it"))], max_failures=9)
    assert len(run.begun) == 1


def test_a_rank_may_be_as_silent_as_any_other(run: Any) -> None:
    assert run([(0, None)]) == "result"
    assert run.begun == ["33.0"]
    assert os.environ[SILENCE] == "600"


def test_what_the_learners_are_at_is_shown_until_they_make_a_step_of_their_own() -> None:
    checked: list[str | None] = []
    listener, running, looks = Listener(), Future[Any](), iter([[0, 1], [], [], [2], [3], []])

    def rows(_: int) -> list[tuple[int, dict[str, float]]]:
        found = next(looks)
        if 3 in found:
            running.set_result(None)
        return [(step, {}) for step in found]

    tracker = SimpleNamespace(rows_after=SimpleNamespace(remote=rows), doing=DOING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "ray", SimpleNamespace(get=lambda given: given))
        patch.setattr(stage, "POLL_S", 0.0)
        stage._pass_on(tracker, listener, running, -1, checked.append)
    assert listener.steps == [0, 1, 2, 3]
    assert checked == ["loading the model"] * 3 + [None] * 2
    assert listener.waited_after == [2, 2, 2]  # after the steps of an earlier sitting, not after the third


class Endless:
    """Ray Train, as long as its learners do nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.fit = Event().wait


def test_a_lost_node_is_not_waited_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[set[str]] = []
    monkeypatch.setattr(stage, "lost_nodes", lambda nodes: looked.append(nodes) or ["10.0.0.1"] * (len(looked) > 2))
    monkeypatch.setattr(stage, "_trainer", Endless)
    with pytest.raises(RuntimeError, match=r"node 10\.0\.0\.1 was lost"):
        run([])
    assert looked == [{"a"}] * 3


def test_learners_that_failed_as_their_node_was_lost_are_not_started_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "lost_nodes", lambda _: ["10.0.0.1"])
    with pytest.raises(RuntimeError, match=r"node 10\.0\.0\.1 was lost"):
        run([(5, RuntimeError("a rank died"))], max_failures=9)
    assert len(run.begun) == 1


def test_a_signal_does_not_wait_for_learners_that_are_loading(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stage, "_trainer", Endless)
    monkeypatch.setattr(stage, "lost_nodes", lambda _: signal.raise_signal(signal.SIGTERM) or [])
    with pytest.raises(Stopped, match=f"stopped by SIGTERM: {tmp_path / 'blade'} is saved after step 0; ") as stopped:
        run([])
    assert stopped.value.exit_code == 143


def test_a_signal_and_a_lost_node_are_a_signal(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a scheduler takes all nodes away: nobody waits for another one then."""
    monkeypatch.setattr(stage, "_trainer", Endless)
    monkeypatch.setattr(stage, "LOADING", ())
    monkeypatch.setattr(stage, "lost_nodes", lambda _: signal.raise_signal(signal.SIGTERM) or ["10.0.0.1"])
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        run([])
