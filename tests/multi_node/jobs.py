"""Training jobs on hosts, started as their users would start them, and observed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.multi_node.hosts import Host

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600.0


class Started:
    """A running command and its log."""

    def __init__(self, log: Path, command: list[str], environ: dict[str, str]) -> None:
        self.log = log
        self.began = time.monotonic()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env={**clean, **environ}, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT
            )

    def wait_for(self, step: int) -> float:
        """Seconds from the start until the log shows ``step`` or a later one."""
        while not any(int(shown) >= step for shown in re.findall(r"^step (\d+)/", self._said(), re.MULTILINE)):
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() - self.began < PATIENCE_S, self.tail()
            time.sleep(0.05)
        return time.monotonic() - self.began

    def wait(self) -> int:
        return self.process.wait(max(1.0, self.began + PATIENCE_S - time.monotonic()))

    def tail(self) -> str:
        return f"{self.log}:\n" + "\n".join(self._said().splitlines()[-30:])

    def error(self) -> str:
        """The last line that begins with what is wrong."""
        return next((line for line in reversed(self._said().splitlines()) if "error:" in line), "")

    def _said(self) -> str:
        return self.log.read_text(errors="replace")


class Job:
    """A training run on some hosts, started and observed."""

    def __init__(self, name: str, folder: Path, hosts: list[Host], verb: str = "train") -> None:
        self.name, self.folder, self.hosts, self.verb = name, folder, hosts, verb
        self.run = folder / name
        shutil.copytree(folder / "base", self.run)
        self.token = secrets.token_hex(32)
        self.left: dict[str, list[str]] = {}

    def command(self, wait_s: float = 60) -> list[str]:
        work = [self.verb, str(self.folder / "config.yaml"), "--set", f"run.dir={self.run}"]
        return ["--num-cpus=2", f"--wait={wait_s:g}", f"--temp-dir={self.folder / 'ray'}", *work]

    def node(self, rank: int, token: str | None = None, changed: str = "true", wait_s: float = 60) -> Started:
        """One node, as its administrator would start it; ``changed``: a change to the file system that only it sees."""
        member = {"HEAD_ADDR": self.hosts[0].address, "NODE_RANK": str(rank), "NODES": str(len(self.hosts))}
        alone = ["unshare", "--mount", "bash", "-ec", f'{changed}; exec "$@"', "bash"]
        script = self.hosts[rank].command(*alone, "bash", str(ROOT / "launch/multi_node.sh"), *self.command(wait_s))
        log = self.folder / f"{self.name}-{rank}.log"
        return Started(log, script, {**member, "RAY_AUTH_TOKEN": token or self.token})

    def start(self) -> list[Started]:
        """Every node by itself."""
        return [self.node(rank) for rank in range(len(self.hosts))]

    def slurm(self) -> Started:
        """By ``cluster/slurm.sbatch``, with an ``srun`` that starts real processes on the hosts."""
        tasks = "\n".join(
            f'SLURM_NODEID={rank} {shlex.join(host.command())} "$@" & tasks+=($!)'
            for rank, host in enumerate(self.hosts)
        )
        self._program(
            "srun", f'while [[ $1 == -* ]]; do shift; done\n{tasks}\nfor task in "${{tasks[@]}}"; do wait "$task"; done'
        )
        listed = self.hosts[0].address[:-1] + f"[1-{len(self.hosts)}]"
        job = {"SLURM_JOB_NODELIST": listed, "SLURM_SUBMIT_DIR": str(ROOT), "PATH": self._path}
        return Started(self.folder / f"{self.name}.log", ["bash", "cluster/slurm.sbatch", *self.command()], job)

    def ssh(self) -> Started:
        """By ``--hosts``, with an ``ssh`` that enters the host's namespace."""
        self._program("ssh", 'while [[ $1 == -o ]]; do shift 2; done\nexec ip netns exec "host${1##*.}" bash -c "$2"')
        hosts = self.folder / "hosts.txt"
        hosts.write_text("".join(f"{host.address}\n" for host in self.hosts))
        script = ["bash", "launch/multi_node.sh", f"--hosts={hosts}", *self.command()]
        return Started(
            self.folder / f"{self.name}-again.log", script, {"PATH": self._path, "RAY_AUTH_TOKEN": self.token}
        )

    def _program(self, name: str, text: str) -> None:
        (self.folder / "bin").mkdir(exist_ok=True)
        program = self.folder / "bin" / name
        program.write_text(f"#!/usr/bin/env bash\nset -e\n{text}\n")
        program.chmod(0o755)

    @property
    def _path(self) -> str:
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    def rewards(self) -> list[float]:
        return pq.read_table(self.run / "blade" / "metrics.parquet").column("reward").to_pylist()

    def workers(self) -> dict[str, list[str]]:
        return json.loads((self.run / "blade" / "hosts.json").read_text())

    def left_behind(self) -> list[str]:
        """Names of processes that still live on a host; a moment is granted."""
        for _ in range(50):
            left = [f"{host.name}: {_title(pid)}" for host in self.hosts for pid in host.pids()]
            if not left:
                return []
            time.sleep(0.1)
        return left


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:120]
    except OSError:
        return str(pid)
