"""When a training's time is over."""

from __future__ import annotations

from threading import Event

import pytest

from blade_dist.cluster.signals import Stopped, signals_raise
from blade_dist.cluster.time_limit import JOB_END, TimeLimit, end_in_time, time_limit
from blade_dist.settings.load import load_config

OWN, SLURM = "train.max_seconds = 600 are over", "the Slurm job ends in 300 s (train.checkpoint_before)"


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ([], {}, None),
        ([], {JOB_END: ""}, None),
        ([], {JOB_END: "never"}, None),
        ([], {JOB_END: "900"}, None),  # of a job that was over before
        (["train.max_seconds=600"], {}, TimeLimit(1600.0, OWN)),
        ([], {JOB_END: "5000"}, TimeLimit(4700.0, SLURM)),
        ([], {JOB_END: "1200"}, TimeLimit(1180.0, SLURM.replace("300", "20"))),  # a tenth of what there was
        (["train.max_seconds=600"], {JOB_END: "5000"}, TimeLimit(1600.0, OWN)),
        (["train.max_seconds=3900"], {JOB_END: "5000"}, TimeLimit(4700.0, SLURM)),
    ],
)
def test_it_is_the_first_of_those_that_there_are(
    settings: list[str], environment: dict[str, str], expected: TimeLimit | None
) -> None:
    assert time_limit(load_config(None, settings).train, 1000.0, environment) == expected


def test_a_command_whose_time_is_over_gets_a_signal() -> None:
    """This process began longer ago than its limit."""

    def command() -> None:
        with signals_raise():
            end_in_time(load_config(None, ["train.max_seconds=0.001"]).train, said.append)
            Event().wait(30)

    said: list[str] = []
    with pytest.raises(Stopped) as stopped:
        command()
    assert stopped.value.exit_code == 143
    assert said == ["train.max_seconds = 0.001 are over"]
