"""The actor that scores lists, on a real Ray: its death costs time and nothing else."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from blade_dist.batches import Rollouts
from blade_dist.cluster.runtime import RETRIES
from blade_dist.data.bundle import DataBundle
from blade_dist.errors import UserError
from blade_dist.rewards.actor import RewardHandle
from blade_dist.rewards.lists import Lists
from blade_dist.settings import Config
from blade_dist.stages.actors import scorer
from blade_dist.store.arrow import read_table
from blade_dist.store.run import RunPaths
from tests.helpers.ranks import make_imitated

LISTS = 6
WAIT_S = 120


def kill(reward: RewardHandle) -> None:
    pid = ray.get(reward.actor.__ray_call__.remote(lambda _: os.getpid()), timeout=WAIT_S)
    os.kill(pid, signal.SIGKILL)


def lists() -> Rollouts:
    items = np.arange(LISTS * 3, dtype=np.int32).reshape(LISTS, 1, 3)
    return replace(make_imitated(LISTS), items=items)


def test_what_it_was_asked_when_it_died_is_answered_with_the_same_scales(
    tiny_config: Config, tiny_data: DataBundle
) -> None:
    with scorer(tiny_config, RunPaths(tiny_config.run.dir).data, "train") as plain:
        reward = plain.rescaled({"ild@3": 0.5})
        before = ray.get(reward.score(lists()), timeout=WAIT_S)
        assert not np.array_equal(before.total, ray.get(plain.score(lists()), timeout=WAIT_S).total)
        for _ in range(RETRIES + 1):  # more often than the same question is asked again
            kill(reward)
            np.testing.assert_array_equal(reward.wait(reward.score(ray.put(lists()))).total, before.total)


def ends_its_process(_: Lists) -> np.ndarray:
    os._exit(7)


def test_a_function_that_ends_its_process_is_named_with_its_lists(
    tiny_config: Config, tiny_data: DataBundle, tmp_path: Path
) -> None:
    own = f"{__name__}:ends_its_process"
    weights = tiny_config.reward.model_copy(update={"weights": {own: 1.0}})
    place = tiny_config.run.model_copy(update={"dir": tmp_path})
    config = tiny_config.model_copy(update={"reward": weights, "run": place})
    with scorer(config, RunPaths(tiny_config.run.dir).data, "train") as reward:
        with pytest.raises(UserError, match="died, or was killed as it hung, each time") as error:
            reward.wait(reward.score(lists()))
        tried = sorted((tmp_path / "incidents").glob("lists-train-*.arrow"))
        assert len(tried) == RETRIES + 1
        said = [f"{own} was called with the lists in {file}" for file in tried]
        assert any(line in str(error.value) for line in said)
        assert read_table(tried[0])["items"].to_pylist()[0] == tiny_data.catalog.item_ids[:3].tolist()
