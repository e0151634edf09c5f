"""Item vectors in two parts: the same model as one with their sum."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.learners.item_vectors import add_features, principal_components
from blade_dist.learners.packing import Beginnings, PromptLists
from blade_dist.learners.policy import Policy, sequence_logprobs
from blade_dist.weights.gather import full_state
from tests.learners.test_legal_head import VOCAB, model, random_batch

TOKENS = np.arange(10, 50)


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(TOKENS), 6)).astype(np.float32)


@pytest.mark.parametrize("tied", [True, False])
def test_the_sum_is_the_same_model(tied: bool) -> None:
    in_parts: Any = model("granite", tied, embedding_multiplier=5.0)
    plain = copy.deepcopy(in_parts)
    add_features(in_parts, features(), TOKENS)
    state = full_state(in_parts, 2**20, keep=True)
    assert state.keys() == dict(plain.named_parameters()).keys()
    moved = (state["model.embed_tokens.weight"] - plain.model.embed_tokens.weight).detach().norm(dim=1)
    assert (moved[TOKENS] > 0).all()
    assert not moved[: TOKENS[0]].any()
    plain.load_state_dict(state, strict=False)
    batch: PromptLists = random_batch(0)[0]
    one, other = (sequence_logprobs(Policy(network, 1.0), batch, 0, 1000, True) for network in (in_parts, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_step_on_one_item_moves_those_like_it() -> None:
    network: Any = model("granite", True)
    known = np.eye(4, dtype=np.float32)[np.arange(len(TOKENS)) % 4]
    add_features(network, known, TOKENS)
    policy = Policy(network, 1.0)
    before = network.get_input_embeddings().weight.detach().clone()
    # of an untied input alone: the head's softmax would move every item
    beginning = Beginnings(torch.tensor([[int(TOKENS[0]), 3]]), torch.tensor([1]))
    optimizer = torch.optim.SGD([network.get_input_embeddings().projection.weight], lr=1.0)
    policy(beginning)[0, 0].backward()
    optimizer.step()
    after = network.get_input_embeddings().weight.detach()
    moved = (after - before)[TOKENS].norm(dim=1)
    assert moved[4] == pytest.approx(float(moved[0]), rel=1e-3)
    assert not (after - before)[VOCAB - 1].any()


@given(st.integers(0, 100), st.integers(2, 30), st.integers(1, 8))
def test_components_are_uncorrelated_and_of_one_size(seed: int, items: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(items, dimensions)).astype(np.float32) @ rng.normal(size=(dimensions, dimensions))
    found = principal_components(values.astype(np.float32), 5)
    covariance = found.T @ found / items
    np.testing.assert_allclose(covariance, np.eye(found.shape[1]), atol=1e-2)
    assert found.shape[1] <= min(5, dimensions, items)


def test_features_that_are_all_the_same_leave_nothing() -> None:
    assert principal_components(np.ones((5, 3), np.float32), 4).shape == (5, 0)
