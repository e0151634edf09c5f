"""Runs the jobs of ``run.sh`` and writes what happened. Exits 0 where all of it is as it should be."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from rich.console import Console

from blade_dist.tracking.say import say
from tests.multi_node.hosts import Host, make_hosts
from tests.multi_node.jobs import PATIENCE_S, Job

STEPS = 40
FEW_STEPS = 12
"""With ``--quick``."""
DOWN_S = 20.0
SLOWER = 1.3
SAY = partial(say, Console())
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
    "train": {"prompts": 96, "prompts_per_step": 24, "checkpoint_every": 4},
    "tracking": {"tensorboard": False},
}
CLIENTS = {
    "driver": "import ray; ray.init(address='{head}:6379', log_to_driver=False)",
    "ray client": "import ray; ray.init('ray://{head}:10001')",
    "job": "from ray.job_submission import JobSubmissionClient as C; C('http://127.0.0.1:8265').submit_job(entrypoint='ls')",
}
"""Ways to hand work to a cluster."""


def prepare(folder: Path, host: Host, steps: int) -> None:
    """Data, reference and prior, which all jobs start from."""
    SETTINGS["train"]["steps"] = steps
    (folder / "config.yaml").write_text(json.dumps(SETTINGS))
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": ""}
    environment = {**os.environ, **access}
    command = [sys.executable, "-m", "tests.multi_node.base", str(folder / "config.yaml"), str(folder / "base")]
    subprocess.run(host.command(*command), check=True, env=environment, capture_output=True)


def ways_in(job: Job) -> dict[str, bool]:
    """Which ways into the cluster accept a client with its token, with another, with none.

    All that must refuse are tried at once; those that must accept one by one, as a busy machine is slow to.
    """
    tokens = {"the token": job.token, "wrong token": "b" * 64, "no token": ""}
    others = [(name, kind) for name in CLIENTS for kind in ("wrong token", "no token")]
    refused = {(name, kind): client(job, name, tokens[kind]) for name, kind in others}
    accepted = {way: process.wait(120) == 0 for way, process in refused.items()}
    # twice: Ray gives the server of a client 30 s to start, which a busy machine may exceed
    accepted |= {
        (name, "the token"): any(client(job, name, job.token).wait(120) == 0 for _ in range(2)) for name in CLIENTS
    }
    return {f"{name}, {kind}": accepts for (name, kind), accepts in accepted.items()}


def client(job: Job, name: str, token: str) -> subprocess.Popen[bytes]:
    """A client that tries one way in, and ends with 0 if it is accepted."""
    # the dashboard is on the head's loopback: it is tried from there
    host = job.hosts[0] if name == "job" else job.hosts[-1]
    environment = {**os.environ, "RAY_AUTH_MODE": "token" if token else "disabled", "RAY_AUTH_TOKEN": token}
    command = host.command(sys.executable, "-c", CLIENTS[name].format(head=job.hosts[0].address))
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


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


def who_gets_in(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    """A head that waits for the other node for as long as clients take to try."""
    job = Job("ways", folder, hosts)
    head = job.node(0, wait_s=PATIENCE_S)
    while "1 of 2 nodes" not in head.tail():
        assert head.process.poll() is None, head.tail()
        time.sleep(0.2)
    result["ways_in"] = ways_in(job)


def wrong_token(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    job = Job("token", folder, hosts)
    head, other = job.node(0, wait_s=30), job.node(1, token=secrets.token_hex(32))
    status = [node.wait() for node in (head, other)]
    result["bad_token"] = {"exit": status, "head": head.error(), "other": other.error()}
    result["left_behind"] += job.left_behind()


def foreign_node(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    """The second host does not see the run, or has another version installed."""
    (metadata,) = (path for path in distribution("transformers").files or [] if path.name == "METADATA")
    installed = Path(str(distribution("transformers").locate_file(metadata)))
    other = folder / "METADATA"
    other.write_text(re.sub(r"^Version: .*$", "Version: 4.0.0", installed.read_text(), count=1, flags=re.MULTILINE))
    result["foreign_node"] = {}
    for name, change in (
        ("storage", "mount -t tmpfs none {run}"),
        ("versions", f"mount --bind {other} {installed}"),
    ):
        job = Job(name, folder, hosts)
        nodes = [job.node(0), job.node(1, changed=change.format(run=job.run))]
        status = [node.wait() for node in nodes]
        result["foreign_node"][name] = {"exit": status, "said": nodes[0].error()}
        result["left_behind"] += job.left_behind()


def doctor(folder: Path, hosts: list[Host], result: dict[str, Any]) -> None:
    job = Job("doctor", folder, hosts, verb="doctor")
    nodes = job.start()
    status = [node.wait() for node in nodes]
    result["doctor"] = {"exit": status, "said": nodes[0].tail().splitlines()}
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
    outcome = {
        "exit": status,
        "said": nodes[0].log.read_text(errors="replace"),
        "seconds_to_exit": time.monotonic() - lost,
    }
    hosts[1].link("up")
    outcome["rewards"] = job.rewards()
    result["after_host_lost"] = outcome
    result["left_behind"] += job.left_behind()


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """What must hold of the parts that ran."""
    one = result["rewards_one_host"]
    head, other = (f"10.77.0.{number}" for number in (1, 2))
    soon = result["first_step_s_two_hosts"] <= SLOWER * result["first_step_s_one_host"]
    token_alone = all(accepts == way.endswith(", the token") for way, accepts in result["ways_in"].items())
    holds = {
        "jobs ended well": result["exit_one_host"] == 0 and result["exit_two_hosts"] == 0,
        "rollouts on one host, learners on the other": result["hosts"] == {"engines": [other], "learners": [head]},
        "the same rewards on one and on two hosts": one == result["rewards_two_hosts"] and len(one) >= FEW_STEPS,
        f"a first step within {SLOWER} of one host's time": soon,
        "a wrong token is refused": 0 not in result["bad_token"]["exit"] and "token" in result["bad_token"]["other"],
        "only the token gets in": token_alone,
        "nothing is left": not result["left_behind"],
    }
    if "foreign_node" in result:
        holds["a node without the storage, or with another version, is named"] = all(
            0 not in outcome["exit"] and other in outcome["said"] for outcome in result["foreign_node"].values()
        )
    if "doctor" in result:
        measured = any(other in line and "GB/s" in line for line in result["doctor"]["said"])
        holds["doctor measures the way to the other node"] = result["doctor"]["exit"] == [0, 0] and measured
    if "after_partition" in result:
        holds["the same rewards after the link was down"] = result["after_partition"]["rewards"] == one
    if "after_host_lost" in result:
        lost = result["after_host_lost"]
        holds["a job that lost a host says so"] = f"node {other} was lost" in lost["said"]
        holds["and goes on with the other, with the same rewards"] = lost["exit"] == 0 and lost["rewards"] == one
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--quick", action="store_true", help="the two jobs and the tokens alone")
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
    parts = [one_host, two_hosts, who_gets_in, wrong_token]
    if not quick:
        parts += [foreign_node, doctor, partition, host_lost]
    with tempfile.TemporaryDirectory(prefix="bd") as name:
        folder = Path(name)
        prepare(folder, hosts[0], FEW_STEPS if quick else STEPS)
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
    result["bad_token_refused"] = 0 not in result["bad_token"]["exit"] and result["holds"]["only the token gets in"]
    for what, holds in result["holds"].items():
        SAY(f"{'ok  ' if holds else 'FAIL'} {what}")


if __name__ == "__main__":
    sys.exit(main())
