"""Whether fresh prompts gain what training prompts do."""

from __future__ import annotations

import math
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from blade_dist.tracking.parting import FRESH, FRESH_ERROR, START, Look, Parting

EVERY = 10


def rows(seen: list[float], fresh: list[float], start: float | None, error: float = 0.01) -> list[dict[str, float]]:
    """Steps whose training rewards go from look to look, a little noisy, with a look at every tenth."""
    made = []
    for number, (mean, value) in enumerate(zip(seen, fresh, strict=True)):
        part = [{"reward": mean + 0.01 * (-1) ** step} for step in range(EVERY)]
        part[-1] |= {FRESH: value, FRESH_ERROR: error}
        if not number and start is not None:
            part[0] |= {FRESH + START: start, FRESH_ERROR + START: error}
        made += part
    return made


def followed(log: list[dict[str, float]], seen: float = 0.3) -> tuple[Parting, list[int]]:
    """And at which steps it warns."""
    parting = Parting(seen, 0.005)
    return parting, [step for step, row in enumerate(log, start=1) if parting.see(row)]


def test_a_gain_on_training_prompts_alone_is_warned_of_once() -> None:
    parting, warned = followed(rows([0.32, 0.4, 0.5], [0.2, 0.21, 0.2], start=0.2))
    assert warned == [20]
    assert parting.rises(parting.looks[-1]) == (pytest.approx(0.2), pytest.approx(0.0))
    assert [look.step for look in parting.looks] == [0, 10, 20, 30]
    assert parting.looks[0] == Look(0, 0.3, 0.005, 0.2, 0.01)
    assert parting.looks[2].seen == pytest.approx(0.4)
    # neighbours differ by 0.02 in 19 steps but between the two parts, where it is 0.02 + 0.08
    noise = math.sqrt((18 * 0.02**2 + 0.1**2) / 19 / 2)
    assert parting.looks[2].seen_error == pytest.approx(noise / math.sqrt(EVERY))


@pytest.mark.parametrize(
    ("seen", "fresh", "error"),
    [
        ([0.35, 0.4], [0.23, 0.27], 0.01),  # fresh prompts gain more than half
        ([0.35, 0.4], [0.2, 0.2], 0.05),  # chance could have made it
        ([0.3, 0.3], [0.15, 0.1], 0.04),  # nothing is learnt
        ([0.2, 0.1], [0.1, 0.0], 0.01),  # both fall
    ],
)
def test_others_are_not_warned_of(seen: list[float], fresh: list[float], error: float) -> None:
    assert followed(rows(seen, fresh, start=0.2, error=error))[1] == []


def test_a_run_without_a_look_at_its_start_is_compared_with_its_first_checkpoint() -> None:
    parting, warned = followed(rows([0.9, 0.9, 1.0], [0.2, 0.2, 0.2], start=None))
    assert [look.step for look in parting.looks] == [10, 20, 30]
    assert warned == [30]


def test_a_single_step_says_nothing_of_chance() -> None:
    parting = Parting(0.3, 0.005)
    assert not parting.see(
        {"reward": 0.9, FRESH: 0.2, FRESH_ERROR: 0.01, FRESH + START: 0.2, FRESH_ERROR + START: 0.01}
    )
    assert math.isinf(parting.looks[-1].seen_error)


def test_without_fresh_prompts_there_is_nothing_to_show() -> None:
    parting, warned = followed([{"reward": 0.1 * step} for step in range(9)])
    assert (parting.looks, warned) == ([], [])


def test_the_table_has_the_first_and_the_last_look() -> None:
    parting, _ = followed(rows(np.linspace(0.3, 0.4, 30).tolist(), [0.25] * 30, start=0.2))
    console = Console(file=StringIO(), width=80, record=True)
    console.print(parting.table())
    lines = [line.strip(" │┃") for line in console.export_text().splitlines() if "±" in line]
    assert len(lines) == 8
    assert lines[0].split()[0] == "0"
    assert [cell.strip() for cell in lines[0].split("│")] == ["0", "0.3000 ± 0.0050", "0.2000 ± 0.0100"]
    assert lines[-1].split()[0] == "300"
