"""The registry of targets, and what each one reads of a group."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from blade_dist.posterior.beta import BetaSettings, Evidence
from blade_dist.posterior.targets import TARGETS
from blade_dist.posterior.targets.target import Groups
from blade_dist.settings import Config

RNG = np.random.default_rng(0)
GROUPS = Groups(RNG.random((3, 4)), RNG.random((3, 6)), BetaSettings(tau=0.3, strength=6))


def test_every_target_that_the_settings_know_is_there() -> None:
    assert set(TARGETS) == set(get_args(Config.model_fields["target"].annotation))


@pytest.mark.parametrize(
    ("change", "readers"),
    [
        ({"reference": RNG.random((3, 6))}, {"blade", "static", "bond"}),
        ({"settings": BetaSettings(tau=0.3, strength=1)}, {"blade", "static"}),
        ({"settings": BetaSettings(tau=0.6, strength=6)}, {"blade"}),
        ({"carried": Evidence(RNG.random((3, 2)), np.ones((3, 2)))}, {"blade"}),
    ],
    ids=["reference", "strength", "tau", "carried"],
)
def test_what_a_target_reads(change: dict, readers: set[str]) -> None:
    other = replace(GROUPS, **change)
    assert {n for n, t in TARGETS.items() if not np.array_equal(t.proxy(GROUPS), t.proxy(other))} == readers


def test_only_objectives_that_leave_the_scale_open_read_it() -> None:
    scaled = {
        n for n, t in TARGETS.items() if not np.array_equal(*(t.advantage(GROUPS.rewards, s) for s in ("std", "none")))
    }
    assert scaled == {"blade", "static", "grpo"}
