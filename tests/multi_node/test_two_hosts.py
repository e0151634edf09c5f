"""Two real hosts, as network namespaces: see ``tests/multi_node/run.sh``, which tries more without ``--quick``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hosts_do_what_one_does(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = Path(__file__).parent / "run.sh"
    done = subprocess.run(
        ["bash", str(script), "--quick", "--json", str(out)], capture_output=True, text=True, timeout=1700, check=False
    )
    assert out.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(out.read_text())
    if result["skipped"]:
        pytest.skip(result["why"])
    broken = [what for what, holds in result["holds"].items() if not holds and "first step" not in what]  # no timing
    assert not broken, json.dumps({name: value for name, value in result.items() if "rewards" not in name}, indent=1)
    assert result["rewards_one_host"] == result["rewards_two_hosts"]
