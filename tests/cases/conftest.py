"""A small log for every case."""

from pathlib import Path

import pytest

from tests.cases.wild import Outcome, Wild


@pytest.fixture
def wild(tmp_path: Path) -> Wild:
    return Wild(tmp_path)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What comes of the log as it should be."""
    return Wild(tmp_path_factory.mktemp("plain")).data()
