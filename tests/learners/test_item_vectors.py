"""Item vectors while fine-tuning: the same model as the one that is saved, and what they share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.batches import Ragged
from blade_dist.learners.item_vectors import add_item_vectors, principal_components
from blade_dist.learners.packing import Beginnings, PromptLists
from blade_dist.learners.policy import Policy, sequence_logprobs, why_not_packed
from blade_dist.weights.gather import full_state
from tests.learners.test_legal_head import VOCAB, model

ITEMS = 20
LISTED, SHOWN = np.arange(10, 10 + ITEMS), np.arange(VOCAB - ITEMS, VOCAB)
WRITTEN = VOCAB - ITEMS


def built(features: np.ndarray | None = None) -> Any:
    network: Any = model("granite", True, embedding_multiplier=5.0)
    vectors = add_item_vectors(network, LISTED, SHOWN)
    if features is not None:
        vectors.add_features(features)
    return network


def saved(network: Any) -> Any:
    """As it is loaded again: an embedding and a head."""
    plain: Any = model("granite", False, embedding_multiplier=5.0)
    missing = plain.load_state_dict(full_state(network, 2**20, keep=True), strict=True)
    assert not missing.missing_keys
    return plain


def batch(seed: int) -> PromptLists:
    """Histories with lists; what is predicted is in lists alone."""
    rng = np.random.default_rng(seed)
    prompts = Ragged.of([rng.choice(SHOWN, rng.integers(1, 6)) for _ in range(4)])
    return PromptLists.single(prompts, Ragged.of([rng.choice(LISTED, rng.integers(2, 5)) for _ in range(4)]))


@pytest.mark.parametrize("features", [None, np.random.default_rng(0).normal(size=(ITEMS, 6)).astype(np.float32)])
def test_what_is_saved_ranks_items_as_what_is_trained(features: np.ndarray | None) -> None:
    network = built(features)
    plain = saved(network)
    rows = Beginnings.of(Ragged.of([[*SHOWN[:3]], [SHOWN[5], LISTED[2], LISTED[4]]]), pad=0)
    with torch.no_grad():
        trained, loaded = (Policy(each, 1.0)(rows)[:, :WRITTEN] for each in (network, plain))
    torch.testing.assert_close(trained, loaded, rtol=0, atol=1e-5)
    moved = plain.get_input_embeddings().weight[SHOWN] - plain.get_output_embeddings().weight[LISTED]
    assert not moved.any()
    assert plain.config.tie_word_embeddings is False


def test_whatever_a_list_holds_the_model_reads_the_same() -> None:
    network = built(np.eye(ITEMS, dtype=np.float32))
    history = [*SHOWN[[4, 7]]]
    rows = Beginnings.of(Ragged.of([[*history, *LISTED[[1, 2]]], [*history, *LISTED[[9, 3]]], history]), pad=0)
    first, second, none = Policy(network, 1.0)(rows)
    torch.testing.assert_close(first, second)
    assert (first - none).abs().max() > 1e-4


def test_a_step_on_one_item_moves_those_like_it() -> None:
    network = built(np.eye(4, dtype=np.float32)[np.arange(ITEMS) % 4])
    vectors = network.get_input_embeddings()
    before = vectors.vectors.detach().clone()
    optimizer = torch.optim.SGD([vectors.projection.weight], lr=1.0)
    Policy(network, 1.0)(Beginnings.of(Ragged.of([[SHOWN[0], SHOWN[4]]]), pad=0))[0, 0].backward()
    optimizer.step()
    moved = (vectors.vectors.detach() - before).norm(dim=1)
    assert moved[LISTED[4]] == pytest.approx(float(moved[LISTED[0]]), rel=1e-3)
    assert not moved[: LISTED[0]].any()


def test_packed_rows_learn_the_same() -> None:
    policy = Policy(built(), 1.0)
    assert why_not_packed(policy) is None
    alone, packed = (sequence_logprobs(policy, batch(1), 0, 1000, shared) for shared in (False, True))
    torch.testing.assert_close(alone, packed, rtol=0, atol=1e-5)


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
    network = built(np.ones((ITEMS, 3), np.float32))
    assert network.get_input_embeddings().features is None
