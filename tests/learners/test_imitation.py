"""Places of a list that imitate the distribution after its history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from blade_dist.batches import Ragged
from blade_dist.learners.imitation import imitation
from blade_dist.learners.item_vectors import add_item_vectors
from blade_dist.learners.packing import Beginnings, PromptLists, collate, idle_microbatch, microbatches
from blade_dist.learners.policy import Policy, choose_attention
from tests.learners.test_legal_head import VOCAB, model

ITEMS = 20
LISTED, SHOWN = np.arange(10, 10 + ITEMS), np.arange(VOCAB - ITEMS, VOCAB)
PROMPTS = Ragged.of([SHOWN[[3, 5, 7]], SHOWN[[2]]])
PLACES = np.array([[1, 3], [2, 4]])


def test_it_is_minus_the_cross_entropy() -> None:
    torch.manual_seed(0)
    hidden, first, weight, bias = torch.randn(6, 4), torch.randn(3, 4), torch.randn(9, 4), torch.randn(9)
    hidden.requires_grad_()
    for given in (bias, None):
        shift = 0 if given is None else given
        p = torch.softmax(first @ weight.t() + shift, 1).repeat_interleave(2, 0)
        expected = (p * torch.log_softmax(hidden @ weight.t() + shift, 1)).sum(1)
        found = imitation(hidden, first, weight, given)
        torch.testing.assert_close(found, expected)
        counts = torch.randn(6)
        of_found, of_expected = (torch.autograd.grad((values * counts).sum(), hidden) for values in (found, expected))
        torch.testing.assert_close(of_found, of_expected)


def test_only_places_learn() -> None:
    hidden, first, weight = (torch.randn(*shape, requires_grad=True) for shape in ((6, 4), (3, 4), (9, 4)))
    imitation(hidden, first, weight, None).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0
    assert first.grad is None
    assert weight.grad is None


def test_a_rank_without_a_share_has_a_gradient_of_zero() -> None:
    network: Any = model("granite", True, embedding_multiplier=5.0)
    vectors = add_item_vectors(network, LISTED, SHOWN)
    found = Policy(network, 1.0)(replace(idle_microbatch(0), imitating=1))
    assert found.shape == (0,)
    found.sum().backward()
    assert vectors.free.grad is not None
    assert not vectors.free.grad.any()


def test_a_place_that_predicts_the_same_has_no_gradient() -> None:
    first, weight = torch.randn(3, 4), torch.randn(9, 4)
    hidden = first.repeat_interleave(2, 0).requires_grad_()
    imitation(hidden, first, weight, None).sum().backward()
    torch.testing.assert_close(hidden.grad, torch.zeros_like(hidden), atol=1e-6, rtol=0)


@pytest.mark.parametrize("budget", [8, 1000])
def test_a_policy_compares_what_it_predicts_there(budget: int) -> None:
    network: Any = model("granite", True, embedding_multiplier=5.0)
    add_item_vectors(network, LISTED, SHOWN)
    policy = Policy(network, 1.0)
    choose_attention(policy)
    tokens = Ragged.of([[int(LISTED[0])] * (int(places.max()) + 1) for places in PLACES])
    given = np.ones(len(tokens.flat), dtype=bool)
    given[tokens.offsets[:-1]] = given[tokens.offsets[:-1, None] + PLACES] = False
    lists = PromptLists.single(PROMPTS, tokens, given=given)
    found = torch.empty(len(PROMPTS), PLACES.shape[1])
    for cut in microbatches(lists, budget, shared=True):
        batch = replace(collate(lists, cut, 0), imitating=1 + PLACES.shape[1])
        found[torch.from_numpy(cut.first)] = policy(batch).detach().view(-1, PLACES.shape[1])

    def after(prompt: int, place: int) -> torch.Tensor:
        row = [*PROMPTS[prompt].tolist(), *[int(LISTED[4])] * place]  # any token of a list reads the same
        return policy(Beginnings.of(Ragged.of([row]), 0))[0].detach()

    expected = [
        (torch.softmax(after(prompt, 0), 0) * torch.log_softmax(after(prompt, place), 0)).sum()
        for prompt in range(2)
        for place in PLACES[prompt].tolist()
    ]
    torch.testing.assert_close(found.flatten(), torch.stack(expected), atol=1e-5, rtol=1e-5)
