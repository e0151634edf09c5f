"""What a stranger fetches stays small: git holds no results but their summaries."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers.paths import ROOT

BYTES = 100_000


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_keeps_summaries_only() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert len(paths) > 100
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in paths if path.is_file()}
    assert {name: size for name, size in large.items() if size > BYTES} == {}
