"""A machine that vanishes with its disk: the same command goes on elsewhere, from the copy in a real S3 server."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from blade_dist.settings import Config
from blade_dist.settings.load import dump_config
from blade_dist.store.copy import Copy, read_copy
from blade_dist.store.fetched import fetch
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths
from blade_dist.store.storage import Storage
from tests.helpers.jobs import PATIENCE_S, assert_same, start, undisturbed, wait_for
from tests.helpers.runs import TRAIN_PROMPTS, with_settings
from tests.helpers.s3 import BUCKET, SECRET, s3_server

STEPS, EVERY = 60, 3


def saved_there(copy: Copy | None) -> int:
    """Steps of the newest checkpoint in the copy."""
    names = re.findall(r"blade/learners/checkpoint_(\d+)/manifest.json", " ".join([] if copy is None else copy.files))
    return max(map(int, names), default=0)


@pytest.mark.slow
@pytest.mark.skipif("BLADE_BENCHMARKS" not in os.environ, reason="takes minutes; BLADE_BENCHMARKS=1 runs it")
def test_a_job_goes_on_where_its_machine_is_another_one(
    tiny_config: Config, tiny_reference: Path, trained: dict[int, RunPaths], tmp_path: Path
) -> None:
    first_machine, paths = tmp_path / "first", RunPaths(tmp_path / "run")
    config = with_settings(
        tiny_config,
        paths.root,
        train={"steps": STEPS, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": EVERY},
    )
    shutil.copyfile(trained[1].prior, paths.prior)
    with s3_server() as query:
        storage = Storage(f"s3://{BUCKET}/run{query}")
        copying = config.run.model_copy(update={"copy_to": storage.uri})
        write_text(tmp_path / "job.yaml", dump_config(config.model_copy(update={"run": copying})))
        first = start(tmp_path)
        wait_for(lambda: saved_there(read_copy(storage)), tmp_path, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        step = saved_there(read_copy(storage))
        assert 0 < step < STEPS
        paths.root.rename(first_machine)

        second = start(tmp_path)
        assert second.wait(PATIENCE_S) == 0, (tmp_path / "log").read_text()[-3000:]
        log = (tmp_path / "log").read_text()
        assert re.search(
            rf"copy: blade \(step {step}\), data, prior.arrow, sft \(done\) came from s3://runs/run\?", log
        )
        assert f"train: goes on from step {step}, saved in" in log
        assert re.search(rf"copy: s3://runs/run\?\S+ holds all of {paths.root}, \d+ files of ", log)
        assert SECRET not in log
        assert not [path for path in paths.root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
        third = RunPaths(tmp_path / "third")
        fetch(third.root, storage)
    assert_same(paths, whole := undisturbed(tmp_path, paths.root))
    assert_same(third, whole)
