"""A cluster that loses a node: the command goes on with the others, as if nothing had been."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from blade_dist.settings import Config
from blade_dist.settings.load import dump_config
from blade_dist.store.checkpoints import LEARNERS, saved_step
from blade_dist.store.files import write_text
from blade_dist.store.run import RunPaths
from tests.helpers.jobs import PATIENCE_S, assert_same, start, undisturbed, wait_for
from tests.helpers.runs import TRAIN_PROMPTS, with_settings

STEPS, EVERY = 12, 2


@pytest.mark.slow
def test_a_job_goes_on_without_the_node_of_its_engine(
    tiny_config: Config, tiny_reference: Path, trained: dict[int, RunPaths], tmp_path: Path
) -> None:
    paths = RunPaths(tmp_path / "run")
    saved = paths.target("blade") / LEARNERS
    config = with_settings(
        tiny_config,
        paths.root,
        train={"steps": STEPS, "prompts": 16, "prompts_per_step": TRAIN_PROMPTS, "checkpoint_every": EVERY},
    )
    shutil.copyfile(trained[1].prior, paths.prior)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    try:
        other = cluster.add_node(num_cpus=4)
        joined = config.ray.model_copy(update={"address": cluster.address})
        write_text(tmp_path / "job.yaml", dump_config(config.model_copy(update={"ray": joined})))
        job = start(tmp_path)
        wait_for(lambda: saved_step(saved) >= EVERY, tmp_path, job)
        cluster.remove_node(other, allow_graceful=False)
        assert job.wait(PATIENCE_S) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        cluster.shutdown()
    log = (tmp_path / "log").read_text()
    assert "was lost; the same command goes on from its last checkpoint on the nodes that are there" in log
    assert "train: goes on from step" in log
    assert_same(paths, undisturbed(tmp_path, paths.root))
