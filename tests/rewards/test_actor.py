"""The actor that scores lists, on a real Ray: its death costs time and nothing else."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import ray

from blade_dist.batches import Rollouts
from blade_dist.cluster.runtime import RESTARTS
from blade_dist.data.bundle import DataBundle
from blade_dist.rewards.actor import RewardHandle
from blade_dist.settings import Config
from blade_dist.stages.actors import scorer
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
        for _ in range(RESTARTS):
            kill(reward)
            after = ray.get(reward.score(ray.put(lists())), timeout=WAIT_S)
            np.testing.assert_array_equal(after.total, before.total)
        assert reward.died() is None
        kill(reward)
        deadline = time.monotonic() + WAIT_S
        while (said := reward.died()) is None:
            assert time.monotonic() < deadline
        assert said.startswith("the process that scores lists died again and again; ")
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(reward.score(lists()), timeout=WAIT_S)
