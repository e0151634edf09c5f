"""A step that can't be taken is left out and counted; several in a row end the training."""

from __future__ import annotations

import pytest

from blade_dist.errors import DivergedError
from blade_dist.training.skips import Skips


def test_a_step_that_was_taken_ends_the_row() -> None:
    skips = Skips()
    for step in range(20):
        skips.see("the loss" if step % 4 else None, step, 3, "learner.lr")
    assert (skips.total, skips.in_a_row) == (15, 3)


def test_one_too_many_names_what_is_not_finite() -> None:
    skips = Skips()
    skips.see("the loss", 5, 1, "learner.lr")
    said = (
        r"^the gradient of w is not finite at step 7, and the 1 before it were left out .*: lower learner\.lr and run"
    )
    with pytest.raises(DivergedError, match=said):
        skips.see("the gradient of w", 6, 1, "learner.lr")


def test_none_may_be_allowed() -> None:
    with pytest.raises(DivergedError, match=r"^the loss is not finite at step 1: lower sft\.lr"):
        Skips().see("the loss", 0, 0, "sft.lr")
