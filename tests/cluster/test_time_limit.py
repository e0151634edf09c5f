"""When a training's time is over."""

from __future__ import annotations

import pytest

from blade_dist.cluster.time_limit import JOB_END, TimeLimit, time_limit
from blade_dist.settings.load import load_config

OWN = "train.max_seconds = 600"
SLURM = "the end of the Slurm job, train.checkpoint_before = 300 s ahead of it"


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ([], {}, None),
        ([], {JOB_END: ""}, None),
        ([], {JOB_END: "never"}, None),
        (["train.max_seconds=600"], {}, TimeLimit(1600.0, OWN)),
        ([], {JOB_END: "5000"}, TimeLimit(4700.0, SLURM)),
        (["train.max_seconds=600"], {JOB_END: "5000"}, TimeLimit(1600.0, OWN)),
        (["train.max_seconds=600"], {JOB_END: "1800"}, TimeLimit(1500.0, SLURM)),
    ],
)
def test_it_is_the_first_of_those_that_there_are(
    settings: list[str], environment: dict[str, str], expected: TimeLimit | None
) -> None:
    assert time_limit(load_config(None, settings).train, 1000.0, environment) == expected
