"""How much is fine-tuned on, and which weights learn; without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from blade_dist.settings.load import load_config
from blade_dist.training import sft
from blade_dist.training.sft import sft_examples, sft_steps, why_whole


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["sft.epochs=3"], (4, 12)),
        (["sft.epochs=3", "sft.max_steps=5"], (4, 5)),
        (["sft.epochs=3", "sft.max_steps=50"], (4, 12)),
        (["model.path=a-model"], (4, 8)),
    ],
)
def test_steps(given: list[str], expected: tuple[int, int]) -> None:
    assert sft_steps(100, load_config(None, ["sft.batch_size=32", *given])) == expected


def test_examples_are_drawn_once() -> None:
    config = load_config(None, ["sft.max_examples=7"])
    drawn = sft_examples(100, config).tolist()
    assert len(set(drawn)) == 7
    assert drawn == sorted(drawn) == sft_examples(100, config).tolist()
    assert drawn != sft_examples(100, load_config(None, ["sft.max_examples=7", "run.seed=1"])).tolist()
    assert sft_examples(5, config).tolist() == sft_examples(5, load_config(None, [])).tolist() == [0, 1, 2, 3, 4]


def test_adapters_are_trained_where_there_is_something_to_adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "load_tokenizer", lambda _: range(10))
    same, grown = (SimpleNamespace(vocabulary=size) for size in (10, 12))
    known: Any = same
    more: Any = grown
    pretrained = load_config(None, ["model.path=a-model", "learner.lora={}"])
    assert why_whole(pretrained, known) is None
    assert why_whole(pretrained, more) == "2 new tokens have vectors to learn"
    assert why_whole(load_config(None, ["learner.lora={}"]), known) == "a new model has nothing to adapt"
