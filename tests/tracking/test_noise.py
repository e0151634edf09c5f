"""What is ours stays on the terminal; what others print, be it past Python, is in the log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, os, subprocess, sys, warnings
from pathlib import Path
from blade_dist.tracking.noise import noise_to
with noise_to(Path(sys.argv[1]), "blade-dist train") as (out, err):
    print("ours", file=out)
    if len(sys.argv) > 2:
        print("printed by Python")
        logging.getLogger("deepspeed").addHandler(logging.StreamHandler(sys.stderr))
        warnings.warn("a warning")
        logging.getLogger("ray").warning("logged")
        os.write(1, b"printed past Python\\n")
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('a process\\\\n')"])
    logging.getLogger("blade_dist.rollouts.pool").warning("engine 0 died")
print("after")
logging.getLogger("deepspeed").warning("late")
"""


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)


def test_noise_is_in_the_log_alone(tmp_path: Path) -> None:
    log = tmp_path / "runs" / "mine" / "log.txt"
    for times in (1, 2):
        ended = ran(str(log), "noise")
        assert ended.stdout == "ours\nafter\n"
        assert ended.stderr == "engine 0 died\n"  # the end of a logger's stream would be said there too
        text = log.read_text()
        for said in ("printed by Python", "a warning", "logged", "printed past Python", "a process", "late"):
            assert f"{said}\n" in text
        assert text.count("blade-dist train\n") == times
        assert "ours" not in text
    whole = log.read_text()
    assert ran(str(log)).stderr == "engine 0 died\nlate\n"
    assert log.read_text() == whole


def test_no_noise_leaves_no_log(tmp_path: Path) -> None:
    ran(str(tmp_path / "runs" / "log.txt"))
    assert not (tmp_path / "runs").exists()
