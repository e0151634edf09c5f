"""Secrets of the environment and of URIs stand in nothing that a run prints or leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from blade_dist.errors import UserError, redacted
from blade_dist.settings.load import dump_config, load_config
from blade_dist.stages.ends import ending
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths
from tests.cases.wild import Wild
from tests.helpers.paths import ROOT

NAMES = ("RAY_AUTH_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "BLADE_SERVE_TOKEN")
SECRET = "verysecret"


def found(folder: Path, secrets: list[str]) -> list[str]:
    """Files that hold one of them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    return [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("setting", ["run.dir", "run.copy_to", "data.path", "ray.address"])
def test_credentials_of_a_uri_are_neither_said_nor_logged(setting: str, verbose: bool, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=setting) as error:
        load_config(None, [f"{setting}=s3://key:{SECRET}@bucket/run"])
    lines, _ = ending(error.value, None, noise=False, verbose=verbose)
    assert SECRET not in "\n".join(lines)
    log = tmp_path / "log.txt"
    ending(RuntimeError(f"can't read s3://key:{SECRET}@bucket"), log, noise=False, verbose=False)
    assert "s3://***@bucket" in log.read_text()
    assert SECRET not in log.read_text()


def test_what_is_no_credential_stays() -> None:
    for text in ("me@example.org", "s3://bucket/a@b", "http://127.0.0.1:8265", "reward.weights my:fn@5"):
        assert redacted(text) == text


@pytest.mark.slow
def test_a_command_writes_no_secret_of_its_environment(tmp_path: Path) -> None:
    settings = Wild(tmp_path).config()
    write_text(tmp_path / "run.yaml", dump_config(settings))
    secrets = {name: f"{SECRET}{number:032d}" for number, name in enumerate(NAMES)}
    for command in ("config", "data"):
        done = subprocess.run(
            [sys.executable, "-m", "blade_dist", command, str(tmp_path / "run.yaml")],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | secrets,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
    assert not found(settings.run.dir, [SECRET])


def test_a_training_leaves_no_secret_of_its_environment(trained: dict[int, RunPaths]) -> None:
    """Fine-tuned and aligned by processes of a Ray that was started with secrets in its environment."""
    secrets = [os.environ[name] for name in NAMES if os.environ.get(name)]
    assert secrets
    seen = ray.get(ray.remote(lambda: dict(os.environ)).remote(), timeout=60)
    assert secrets[0] in seen.values()
    assert not found(trained[1].root, secrets)
