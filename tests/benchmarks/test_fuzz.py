"""A short run of the hostile inputs, and that an unclear end would be seen."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.fuzz import __main__ as command
from benchmarks.fuzz.kinds import KINDS, Kind
from blade_dist.errors import UserError


def test_no_input_has_an_unclear_end() -> None:
    results = command.fuzz(inputs=25 * len(KINDS), seed=1)
    assert results["examples"] == {}
    assert results["unclear"] == 0
    assert all(sum(ends.values()) == 25 for ends in results["by_kind"].values())
    refused = {kind for kind, ends in results["by_kind"].items() if ends["clear"]}
    assert refused == KINDS.keys() - {"checkpoint"}  # a damaged one is passed over


def _raises(error: Exception) -> Kind:
    def use(_: Path) -> None:
        raise error

    return Kind(lambda *_: "made", use)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("column"),
        UserError("two\nlines of data.path"),
        UserError("it names no file and no setting"),
        UserError("data.path: " + "x" * command.LONGEST),
    ],
)
def test_an_unclear_end_is_seen(error: Exception, tmp_path: Path) -> None:
    assert command._end(_raises(error), tmp_path)[0] == "unclear"
    assert command._end(_raises(UserError("data.path: no such file")), tmp_path)[0] == "clear"
    assert command._end(_raises(UserError(f"{tmp_path}/log.csv: empty")), tmp_path)[0] == "clear"


def test_a_hang_is_unclear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LIMIT_S", 0.1)
    end, said = command._end(Kind(lambda *_: "made", lambda _: time.sleep(60)), tmp_path)
    assert (end, "nothing after 0.1 s" in said) == ("unclear", True)
