"""What the fine-tuned weights are stamped with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from blade_dist.data.bundle import DataBundle
from blade_dist.settings.load import load_config
from blade_dist.stages.sft import sft_stamp


def stamp(small: DataBundle, *settings: str, codec: str = "codec") -> str:
    known: Any = SimpleNamespace(fingerprint=lambda: codec)
    return sft_stamp(load_config(None, settings), replace(small, codec=known))


@pytest.mark.parametrize(
    "setting",
    [
        "learner.betas=[0.9, 0.95]",
        "learner.clip_grad=0.5",
        "sft.lr=1e-4",
        "model.dtype=bfloat16",
        "run.seed=5",
        "lists.k=3",
        "lists.exclude_history=false",
        "evaluate.decode=rank",
        "data.max_history=7",
    ],
)
def test_weights_of_other_settings_are_told_apart(small: DataBundle, setting: str) -> None:
    metrics = ("reward.weights={ndcg@3: 1}", "evaluate.metrics=[ndcg@3]")
    assert stamp(small, *metrics, setting) != stamp(small, *metrics)


@pytest.mark.parametrize(
    "setting",
    [
        "learner.workers=2",
        "learner.cpus_per_worker=2",
        "learner.tokens_per_microbatch=512",
        "learner.shared_prefix=false",
        "learner.zero_stage=1",
        "learner.lr=1e-4",
        "learner.weight_decay=0.1",
        "learner.bon_n=3",
        "lists.exclude=[a]",
    ],
)
def test_what_changes_no_weight_of_the_reference_is_free(small: DataBundle, setting: str) -> None:
    assert stamp(small, setting) == stamp(small)


def test_a_default_is_stamped_as_the_value_that_it_is(small: DataBundle) -> None:
    assert stamp(small, "sft.lr=3e-3", "sft.epochs=20") == stamp(small)
    assert stamp(small, "learner.lora={}") == stamp(small)  # a model that is built is trained as a whole


def test_weights_of_other_tokens_are_told_apart(small: DataBundle) -> None:
    assert stamp(small, codec="other") != stamp(small)
