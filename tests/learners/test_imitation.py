"""Places of a list that imitate the distribution after its history."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from blade_dist.batches import Ragged
from blade_dist.learners.imitation import Continued, imitation
from blade_dist.learners.item_vectors import add_item_vectors
from blade_dist.learners.packing import Beginnings
from blade_dist.learners.policy import Policy
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
    found = Policy(network, 1.0)(
        Continued.of(Ragged.of([[int(LISTED[0])]]), int(LISTED[0]), np.zeros((1, 0), np.int64))
    )
    assert found.shape == (0,)
    found.sum().backward()
    assert vectors.free.grad is not None
    assert not vectors.free.grad.any()


def test_a_place_that_predicts_the_same_has_no_gradient() -> None:
    first, weight = torch.randn(3, 4), torch.randn(9, 4)
    hidden = first.repeat_interleave(2, 0).requires_grad_()
    imitation(hidden, first, weight, None).sum().backward()
    torch.testing.assert_close(hidden.grad, torch.zeros_like(hidden), atol=1e-6, rtol=0)


def test_a_policy_compares_what_it_predicts_there() -> None:
    network: Any = model("granite", True, embedding_multiplier=5.0)
    add_item_vectors(network, LISTED, SHOWN)
    policy = Policy(network, 1.0)
    found = policy(Continued.of(PROMPTS, int(LISTED[0]), PLACES)).detach()

    def after(prompt: int, place: int) -> torch.Tensor:
        row = [*PROMPTS[prompt].tolist(), *[int(LISTED[4])] * place]  # any token of a list reads the same
        return policy(Beginnings.of(Ragged.of([row]), 0))[0].detach()

    expected = [
        (torch.softmax(after(prompt, 0), 0) * torch.log_softmax(after(prompt, place), 0)).sum()
        for prompt in range(2)
        for place in PLACES[prompt].tolist()
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)
