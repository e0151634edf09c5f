"""What the program says of an error that travelled."""

from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError
from ray.train import WorkerGroupError

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


def test_a_learner_s_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def learners_end() -> None:
        raise WorkerGroupError("[Rank 0] Traceback ...", {0: KeyError("step")})

    monkeypatch.setattr(blade_dist.cli, "app", learners_end)
    with pytest.raises(WorkerGroupError):
        blade_dist.cli.main()
