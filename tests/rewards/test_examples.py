"""Examples in docstrings: they run, and give what they show."""

from __future__ import annotations

import doctest
from types import ModuleType

import numpy as np
import pytest

from blade_dist.rewards import distribution, example, metrics, soft


@pytest.mark.parametrize("module", [metrics, soft, distribution, example], ids=lambda module: module.__name__)
def test_the_examples_of(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"np": np, "example": example.example})
    assert result.attempted > 0
    assert result.failed == 0


def test_every_metric_has_an_example() -> None:
    assert [name for name, function in metrics.METRICS.items() if f">>> {name}(" not in (function.__doc__ or "")] == []
