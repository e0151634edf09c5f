"""What the tests of the benchmarks share."""

import pytest

from tests.helpers.paths import BENCHMARKS


@pytest.fixture
def benchmarks_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' modules can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
