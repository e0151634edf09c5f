"""Which models a rank holds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from blade_dist.settings.load import load_config
from blade_dist.training.rank import Rank


def rank(*settings: str) -> tuple[Rank, list[str]]:
    """One without models, and what it loads."""
    loaded: list[str] = []

    class Policy(SimpleNamespace):
        def to(self, _: str) -> Policy:
            return self

        def requires_grad_(self, _: bool) -> Policy:
            return self

    def load() -> Policy:
        loaded.append("reference")
        return Policy()

    bare = object.__new__(Rank)
    bare.config = load_config(None, list(settings))
    vars(bare)["_load"] = load
    vars(bare)["learner"] = SimpleNamespace(device="cpu", shares_prefix=False, base_logprobs="base")
    return bare, loaded


@pytest.mark.parametrize("lora", [[], ["learner.lora={}"]])
def test_without_a_kl_no_reference_is_loaded_or_run(lora: list[str]) -> None:
    bare, loaded = rank("learner.kl_coef=0", *lora)
    frozen = bare._frozen_reference()
    assert frozen is None
    assert loaded == []
    assert bare._reference_logprobs(frozen) is None


def test_with_a_kl_the_reference_is_loaded_once_or_is_the_policy_without_its_adapter() -> None:
    bare, loaded = rank()
    assert bare._frozen_reference() is not None
    assert loaded == ["reference"]
    bare, loaded = rank("learner.lora={}")
    assert bare._frozen_reference() is None
    assert loaded == []
    assert bare._reference_logprobs(None) == "base"
