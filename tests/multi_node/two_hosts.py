"""Runs the jobs of ``run.sh`` and writes what happened. Exits 0 where all of it is as it should be."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from tests.multi_node.hosts import Host, make_hosts

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
PATIENCE_S = 300.0
DOWN_S = 20.0
SLOWER = 1.3
SAY = Console(highlight=False, markup=False, soft_wrap=True).print
SETTINGS = {
    "data": {
        "synthetic": {"users": 120, "items": 40, "groups": 4, "interactions": 24},
        "k_core": 2,
        "max_history": 8,
        "targets": 3,
        "windows": 3,
    },
    "lists": {"k": 3},
    "model": {"build": {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_size": 64, "context": 128}},
    "sft": {"epochs": 2, "batch_size": 32},
    "reward": {"weights": {"ndcg@3": 1.0, "ild@3": 0.3}},
    "evaluate": {"metrics": ["ndcg@3"]},
    "rollout": {"group_size": 8, "max_num_seqs": 192},
    "prior": {"size": 4},
    "train": {"steps": STEPS, "prompts": 96, "prompts_per_step": 24, "checkpoint_every": 4},
    "tracking": {"tensorboard": False},
}
CLIENTS = {
    "driver": "import ray; ray.init(address='{head}:6379', log_to_driver=False)",
    "ray client": "import ray; ray.init('ray://{head}:10001')",
    "job": "from ray.job_submission import JobSubmissionClient as C; C('http://127.0.0.1:8265').submit_job(entrypoint='ls')",
}
"""Ways to hand work to a cluster."""


class Started:
    """A running command with a log of its own."""

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
    """One training run of its own on some hosts, started and observed."""

    def __init__(self, name: str, folder: Path, hosts: list[Host]) -> None:
        self.name, self.folder, self.hosts = name, folder, hosts
        self.run = folder / name
        shutil.copytree(folder / "base", self.run)
        self.token = secrets.token_hex(32)
        self.left: dict[str, list[str]] = {}

    @property
    def command(self) -> list[str]:
        train = ["train", str(self.folder / "config.yaml"), "--set", f"run.dir={self.run}"]
        return ["--num-cpus=2", "--wait=60", f"--temp-dir={self.folder / 'ray'}", *train]

    def node(self, rank: int, token: str | None = None) -> Started:
        """One node, as its own administrator would start it."""
        member = {"HEAD_ADDR": self.hosts[0].address, "NODE_RANK": str(rank), "NODES": str(len(self.hosts))}
        script = self.hosts[rank].command("bash", str(ROOT / "launch/multi_node.sh"), *self.command)
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
        return Started(self.folder / f"{self.name}.log", ["bash", "cluster/slurm.sbatch", *self.command], job)

    def ssh(self) -> Started:
        """By ``--hosts``, with an ``ssh`` that goes to the host through its namespace."""
        self._program("ssh", 'while [[ $1 == -o ]]; do shift 2; done\nexec ip netns exec "host${1##*.}" bash -c "$2"')
        hosts = self.folder / "hosts.txt"
        hosts.write_text("".join(f"{host.address}\n" for host in self.hosts))
        script = ["bash", "launch/multi_node.sh", f"--hosts={hosts}", *self.command]
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


def prepare(folder: Path, host: Host) -> None:
    """Data, reference and prior, which all jobs start from."""
    (folder / "config.yaml").write_text(json.dumps(SETTINGS))
    program = str(Path(sys.executable).with_name("blade-dist"))
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": ""}
    environment = {**os.environ, **own}
    for stage in ("data", "sft", "prior"):
        command = [program, stage, str(folder / "config.yaml"), "--set", f"run.dir={folder / 'base'}"]
        subprocess.run(host.command(*command), check=True, env=environment, capture_output=True)


def doors(job: Job) -> dict[str, bool]:
    """Which ways in are open to a client with the cluster's token, with another, with none (all tried at once)."""
    tried = {}
    for name, code in CLIENTS.items():
        # the dashboard is on the head's loopback: its door is tried from there
        host = job.hosts[0] if name == "job" else job.hosts[-1]
        for kind, token in (("the token", job.token), ("wrong token", "b" * 64), ("no token", "")):
            environment = {**os.environ, "RAY_AUTH_MODE": "token" if token else "disabled", "RAY_AUTH_TOKEN": token}
            command = host.command(sys.executable, "-c", code.format(head=job.hosts[0].address))
            output = subprocess.DEVNULL
            tried[f"{name}, {kind}"] = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    return {door: client.wait(120) == 0 for door, client in tried.items()}


def two_hosts(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    job = Job("two", folder, hosts)
    slurm = job.slurm()
    result["first_step_s_two_hosts"] = slurm.wait_for(1)
    result["exit_two_hosts"] = slurm.wait()
    result["rewards_two_hosts"] = job.rewards()
    result["hosts"] = job.workers()
    result["left_behind"] += job.left_behind()


def one_host(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    job = Job("one", folder, hosts[:1])
    (node,) = job.start()
    result["first_step_s_one_host"] = node.wait_for(1)
    result["exit_one_host"] = node.wait()
    result["rewards_one_host"] = job.rewards()
    result["left_behind"] += job.left_behind()


def wrong_token(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    job = Job("token", folder, hosts)
    head = job.node(0)
    while "1 of 2 nodes" not in head.tail():
        assert head.process.poll() is None, head.tail()
        time.sleep(0.2)
    result["doors"] = doors(job)
    other = job.node(1, token=secrets.token_hex(32))
    status = [node.wait() for node in (head, other)]
    result["bad_token"] = {"exit": status, "head": head.error(), "other": other.error()}
    result["left_behind"] += job.left_behind()


def partition(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    job = Job("partition", folder, hosts)
    nodes = job.start()
    nodes[0].wait_for(4)
    hosts[1].link("down")
    time.sleep(DOWN_S)
    hosts[1].link("up")
    status = [node.wait() for node in nodes]
    result["after_partition"] = {"exit": status, "rewards": job.rewards(), "seconds_down": DOWN_S}
    result["left_behind"] += job.left_behind()


def host_lost(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    job = Job("lost", folder, hosts)
    nodes = job.start()
    nodes[0].wait_for(6)
    hosts[1].link("down")
    hosts[1].kill()
    lost = time.monotonic()
    status = nodes[0].wait()
    found = {"exit": status, "said": nodes[0].error(), "seconds_to_exit": time.monotonic() - lost}
    result["left_behind"] += job.left_behind()
    hosts[1].link("up")
    found["exit_resumed"] = job.ssh().wait()
    found["rewards"] = job.rewards()
    result["after_host_lost"] = found
    result["left_behind"] += job.left_behind()


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """What must hold of the parts that ran."""
    one = result["rewards_one_host"]
    head, other = (f"10.77.0.{number}" for number in (1, 2))
    soon = result["first_step_s_two_hosts"] <= SLOWER * result["first_step_s_one_host"]
    token_alone = all(is_open == door.endswith(", the token") for door, is_open in result["doors"].items())
    holds = {
        "jobs ended well": result["exit_one_host"] == 0 and result["exit_two_hosts"] == 0,
        "rollouts on one host, learners on the other": result["hosts"] == {"engines": [other], "learners": [head]},
        "the same rewards on one and on two hosts": one == result["rewards_two_hosts"] and len(one) == STEPS,
        f"a first step within {SLOWER} of one host's time": soon,
        "a wrong token is refused": 0 not in result["bad_token"]["exit"] and "token" in result["bad_token"]["other"],
        "doors open to the token alone": token_alone,
        "nothing is left": not result["left_behind"],
    }
    if "after_partition" in result:
        holds["the same rewards after the link was down"] = result["after_partition"]["rewards"] == one
    if "after_host_lost" in result:
        lost = result["after_host_lost"]
        holds["a job that lost a host says so and ends"] = lost["exit"] != 0 and other in lost["said"]
        holds["and goes on with the same rewards"] = lost["exit_resumed"] == 0 and lost["rewards"] == one
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--quick", action="store_true", help="without the link that is down and the host that is lost")
    parser.add_argument("--skipped", help="why nothing can be tried here")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"skipped": bool(arguments.skipped), "left_behind": []}
    if arguments.skipped:
        result["why"] = arguments.skipped
        SAY(f"skipped: {arguments.skipped}")
    else:
        run_all(result, arguments.quick)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(result.get("holds", {}).values()) else 1


def run_all(result: dict[str, Any], quick: bool) -> None:
    hosts = make_hosts(2)
    parts: list[Callable[[Path, list[Host], dict[str, Any]], None]]
    parts = [one_host, two_hosts, wrong_token, *([] if quick else [partition, host_lost])]
    with tempfile.TemporaryDirectory(prefix="bd") as name:
        folder = Path(name)
        prepare(folder, hosts[0])
        for part in parts:
            began = time.monotonic()
            try:
                part(folder, hosts, result)
            finally:
                for host in hosts:
                    host.kill()
            SAY(f"{part.__name__}: {time.monotonic() - began:.0f} s")
    SAY(f"{'step':>6} {'one host':>10} {'two hosts':>10}")
    for step, pair in enumerate(zip(result["rewards_one_host"], result["rewards_two_hosts"], strict=False), start=1):
        SAY(f"{step:>6} {pair[0]:>10.6f} {pair[1]:>10.6f}")
    result["holds"] = verdicts(result)
    result["bad_token_refused"] = (
        0 not in result["bad_token"]["exit"] and result["holds"]["doors open to the token alone"]
    )
    for what, holds in result["holds"].items():
        SAY(f"{'ok  ' if holds else 'FAIL'} {what}")


if __name__ == "__main__":
    sys.exit(main())
