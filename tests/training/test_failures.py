"""Deaths with steps between end no run; those in a row do."""

from __future__ import annotations

from blade_dist.training.failures import Failures


def test_only_failures_in_a_row_end_a_run() -> None:
    failures = Failures(allowed=2)
    assert all(failures.another(step) for step in range(10))
    assert failures.another(9)
    assert not failures.another(9)


def test_steps_that_are_done_again_are_no_new_ones() -> None:
    failures = Failures(allowed=2)
    assert [failures.another(step) for step in (7, 7, 7)] == [True, True, False]


def test_the_first_failure_counts_before_any_step() -> None:
    assert not Failures(allowed=0).another(-1)
    assert Failures(allowed=1).another(-1)
