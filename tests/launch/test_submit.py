"""``launch/submit.sh`` on a real, authenticated head: a training job runs, is stopped, is submitted again, resumes."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from blade_dist.nodes.processes import end, start
from blade_dist.nodes.raycluster import RayOptions, environment, start_command, wait_for_port
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths
from tests.helpers.paths import ROOT
from tests.helpers.runs import TRAIN_PROMPTS, with_settings

SUBMIT = ROOT / "launch" / "submit.sh"
STEPS, PATIENCE_S = 20, 600

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Cluster:
    """A head that requires a token."""

    dashboard: str
    token: str

    def submit(self, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = ["bash", str(SUBMIT), "--address", self.dashboard, *arguments]
        access = {"RAY_AUTH_TOKEN": token or self.token}
        return subprocess.run(
            command, env={**clean, **access}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    token, folder = secrets.token_hex(32), tmp_path_factory.mktemp("head")
    temporary = tempfile.mkdtemp(prefix="ray")  # short, as names of sockets must be
    options = RayOptions(ports[0], ports[1], 4, 0, temporary)
    access = {**environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ADDRESS": ""}
    # another Ray of this test session may have the agent's usual port
    command = [*start_command("127.0.0.1", None, options), f"--dashboard-agent-listen-port={ports[2]}"]
    head = start(command, folder / "log", access)
    try:
        for port in ports[1:]:
            wait_for_port("127.0.0.1", port, 60, lambda: None)
        yield Cluster(f"http://127.0.0.1:{ports[1]}", token)
    finally:
        end(head)
        shutil.rmtree(temporary, ignore_errors=True)


def test_a_submitted_job_is_stopped_and_resumes(
    cluster: Cluster, tiny_config: Config, trained: dict[int, RunPaths], tiny_reference: Path, tmp_path: Path
) -> None:
    assert tiny_reference.is_dir()
    config = with_settings(
        tiny_config,
        tmp_path / "run",
        train={"steps": STEPS, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": 2},
    )
    paths = RunPaths(tmp_path / "run")
    paths.prior.write_bytes(trained[1].prior.read_bytes())
    write_text(tmp_path / "job.yaml", dump_config(config))
    accepted = cluster.submit("--id", "first", "--no-wait", "train", str(tmp_path / "job.yaml"))
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    deadline = time.monotonic() + PATIENCE_S
    saved = paths.target("blade") / "learners"
    while not list(saved.glob("checkpoint_*/progress.json")):
        assert time.monotonic() < deadline, cluster.submit("--list").stdout
        time.sleep(0.2)
    stopped = cluster.submit("--stop", "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert not (paths.target("blade") / "policy").exists()

    again = cluster.submit("--id", "second", "train", str(tmp_path / "job.yaml"))
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "goes on from step" in again.stdout
    assert (paths.target("blade") / "policy" / "model.safetensors").is_file()
    steps = pq.read_table(paths.target("blade") / "metrics.parquet").column("step").to_pylist()
    assert steps == list(range(STEPS))


def test_bad_calls_are_one_line(cluster: Cluster, tmp_path: Path) -> None:
    for arguments, token, words in (
        (("train", "x.yaml"), "b" * 64, "refuses the token"),
        (("--address", "http://127.0.0.1:9", "train", "x.yaml"), None, "no Ray cluster answers"),
        ((), None, "no command"),
        (("--what",), None, "--what: unknown"),
    ):
        done = cluster.submit(*arguments, token=token)
        assert done.returncode == 2, done.stdout + done.stderr
        assert words in done.stderr.splitlines()[-1]


def test_a_run_folder_that_would_vanish_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("run: {dir: runs/mine}\n")
    done = cluster.submit("train", str(tmp_path / "job.yaml"))
    assert done.returncode != 0
    assert "error: run.dir: runs/mine is below the folder of the submitted job" in done.stdout
