"""When a run stops early."""

import math

from blade_dist.training.patience import Patience


def looks(*values: float) -> Patience:
    patience = Patience()
    for value in values:
        patience.see(value)
    return patience


def test_it_counts_looks_since_the_best() -> None:
    assert looks(0.1, 0.3, 0.2, 0.3) == Patience(best=0.3, without_better=2)


def test_a_better_look_starts_it_anew() -> None:
    assert looks(0.1, 0.0, 0.0, 0.2).without_better == 0


def test_it_is_over_at_its_limit_only() -> None:
    assert not looks(0.3, 0.2).over(2)
    assert looks(0.3, 0.2, 0.1).over(2)
    assert not looks(*([0.3] * 50)).over(None)


def test_a_look_that_is_no_number_is_no_better() -> None:
    assert looks(math.nan, -2.0, math.nan) == Patience(best=-2.0, without_better=1)
    assert looks(*([math.nan] * 3)).over(3)
