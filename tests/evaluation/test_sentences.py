"""A comparison in a sentence, and which way each metric is better."""

from __future__ import annotations

import doctest

import pytest

from blade_dist.evaluation import sentences
from blade_dist.evaluation.bootstrap import Interval
from blade_dist.evaluation.sentences import comparison
from blade_dist.rewards.direction import LESS_IS_BETTER, SAID, arrow, direction
from blade_dist.rewards.metrics import METRICS
from blade_dist.rewards.named import BOOST, EXCESS

UP, DOWN, NONE = Interval(0.046, 0.040, 0.052), Interval(-0.02, -0.03, -0.01), Interval(0.001, -0.002, 0.004)


def test_the_example_holds() -> None:
    result = doctest.testmod(sentences)
    assert (result.attempted > 0, result.failed) == (True, 0)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"ndcg@5": NONE, "ild@5": UP, "mgu@5": DOWN},
            (
                "blade's lists are more diverse and fairer to groups than sft's (ild@5 +.046 [.040, .052]; "
                "mgu@5 -.020 [-.030, -.010]), at no measurable loss of ndcg@5"
            ),
        ),
        (
            {"ndcg@5": DOWN, "recall@5": DOWN, "ild@5": UP},
            (
                "blade's lists are more diverse than sft's (ild@5 +.046 [.040, .052]), but less accurate "
                "(ndcg@5 -.020 [-.030, -.010])"
            ),
        ),
        (
            {"ndcg@5": UP},
            "blade's lists are more accurate than sft's (ndcg@5 +.046 [.040, .052]), and worse in nothing",
        ),
        (
            {"calibration@5": UP, "hr@5": NONE},
            (
                "blade's lists are worse calibrated than sft's (calibration@5 +.046 [.040, .052]), and better in "
                "nothing that was measured"
            ),
        ),
        (
            {"reward": UP, "ndcg@5": NONE},
            "blade's and sft's lists do not differ measurably (ndcg@5 +.001 [-.002, .004])",
        ),
        (
            {"my.rewards:length": UP, "ndcg@5": UP},
            "blade's lists are more accurate than sft's (ndcg@5 +.046 [.040, .052]), and worse in nothing",
        ),
    ],
)
def test_what_is_said(found: dict[str, Interval], said: str) -> None:
    assert comparison("blade", "sft", found, {}) == said


def test_of_nothing_that_has_a_direction_nothing_is_claimed() -> None:
    said = comparison("a", "b", {"reward": UP, "my.rewards:length": UP}, {})
    assert said == "a's and b's lists do not differ measurably (nothing that was measured has a better direction)"


def test_every_metric_has_a_direction_and_words() -> None:
    assert {*METRICS, EXCESS} == SAID.keys()
    assert set(LESS_IS_BETTER) < SAID.keys()
    assert [direction(name, {}) for name in ("ndcg@5", "mgu/shelves@5", "excess/2@5", "reward", "m:f")] == [
        *(1, -1, -1, 1, 0)
    ]


def test_the_sign_of_a_weight_says_which_way_is_better() -> None:
    weights = {"my.rewards:length": -0.5, f"{BOOST}/own@5": 2.0, "ndcg@5": 0.0}
    assert [arrow(name, weights) for name in (*weights, "other:f", "mgu@5")] == [
        *("my.rewards:length ↓", "boost/own@5 ↑", "ndcg@5 ↑", "other:f", "mgu@5 ↓")
    ]
