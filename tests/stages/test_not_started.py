"""An actor that never says that it lives is given up, so that nobody waits for it for ever; Ray is a double."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from blade_dist.settings import Config
from blade_dist.stages import watch


def test_an_actor_that_does_not_start_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed, gone = [], threading.Event()

    def kill(actor: Any) -> None:
        killed.append(actor)
        gone.set()

    question = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _: "asked"))
    actor: Any = SimpleNamespace(__ray_call__=question)
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    monkeypatch.setattr(watch, "ray", SimpleNamespace(wait=lambda *_, **__: ([], []), kill=kill))
    config = Config.model_validate({"ray": {"silence_s": 0.02}})
    with watch.Watch("the estimator", actor, config):
        assert gone.wait(10)
    assert killed == [actor]
    assert "the estimator did not start within 0.1 s and is given up" in caplog.text
