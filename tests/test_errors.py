"""What the program says of an error that travelled."""

from __future__ import annotations

import errno

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

import blade_dist.cli
from blade_dist.errors import UserError


def test_a_learner_s_user_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cause = RayTaskError("score", "Traceback ...", UserError("reward.weights x:\n no")).as_instanceof_cause()

    def learners_end() -> None:
        raise WorkerGroupError("[Rank 0] Traceback ...", {0: RuntimeError("closed"), 1: cause})

    monkeypatch.setattr(blade_dist.cli, "app", learners_end)
    with pytest.raises(SystemExit) as stop:
        blade_dist.cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: reward.weights x: no\n"


def test_a_learner_s_bug_is_ours_and_its_traceback_can_be_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def learners_end() -> None:
        raise WorkerGroupError("[Rank 0] Traceback ...", {0: KeyError("step")})

    monkeypatch.setattr(blade_dist.cli, "app", learners_end)
    with pytest.raises(SystemExit) as stop:
        blade_dist.cli.main()
    assert stop.value.code == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("error: KeyError")
    assert last == "traceback: add --verbose to the command"


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def controller_ends() -> None:
        raise ControllerError(OSError(errno.ENOSPC, "Error writing bytes to file"))

    monkeypatch.setattr(blade_dist.cli, "app", controller_ends)
    with pytest.raises(SystemExit) as stop:
        blade_dist.cli.main()
    assert stop.value.code == 2
    said = "error: the disk is full: [Errno 28] Error writing bytes to file; make room, then run the same command again"
    assert capsys.readouterr().err == f"{said}\n"
