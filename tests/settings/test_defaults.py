"""Defaults that follow from the model, where nothing is set."""

from __future__ import annotations

import pytest

from blade_dist.settings.load import load_config

PRETRAINED = ["model.path=a-model"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], (3e-3, 20, 1e-3)),
        (["learner.lora={}"], (3e-3, 20, 1e-3)),
        (PRETRAINED, (1e-5, 2, 1e-6)),
        ([*PRETRAINED, "learner.lora={}"], (1e-4, 2, 1e-5)),
        ([*PRETRAINED, "sft.lr=0.1", "sft.epochs=7", "learner.lr=0.2"], (0.1, 7, 0.2)),
    ],
)
def test_rates_and_epochs_are_those_of_the_kind_of_model(given: list[str], expected: tuple[float, int, float]) -> None:
    config = load_config(None, given)
    assert (config.sft_lr, config.sft_epochs, config.learner_lr) == pytest.approx(expected)
