"""Examples in docstrings: they run, and give what they show."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from blade_dist.posterior import advantage, belief, beta, ties
from blade_dist.posterior.targets import best_of_n_sft


@pytest.mark.parametrize("module", [advantage, belief, beta, ties, best_of_n_sft], ids=lambda module: module.__name__)
def test_the_examples_of(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
