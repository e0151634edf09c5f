"""Output that nobody reads any more fails nothing; a full disk still does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blade_dist.tracking.lasting import Lasting, is_lost, lasting
from blade_dist.tracking.say import Voice, say


def test_a_pipe_that_nobody_reads_takes_all_that_is_said() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as stream:
        console = Voice(stream, quiet=False)
        say(console, "first")
        assert os.read(reader, 100) == b"first\n"
        os.close(reader)
        assert not is_lost(console.file)
        for _ in range(3):
            say(console, "second")
            say(console.last_lines, "third")
        assert is_lost(console.file)


def test_a_disk_that_is_full_is_not_a_reader_that_left() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as device,
        os.fdopen(os.dup(device.fileno()), "w", buffering=1) as stream,
    ):
        last = Lasting(stream)
        with pytest.raises(OSError, match="No space"):
            last.write("line\n")
        assert not last.lost
        assert lasting(last) is last  # type: ignore[arg-type]
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_its_work(closed: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("run: {dir: mine}\ndata: {synthetic: {users: 60, items: 40}}\n")
    command = f"{sys.executable} -m blade_dist data my.yaml {closed}"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, shell=True, check=False, cwd=tmp_path, env=env, timeout=120)
    assert (ended.returncode, (tmp_path / "mine" / "data" / "card.json").is_file()) == (0, True)
