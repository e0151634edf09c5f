"""Log-probs over a whole vocabulary, block by block: values and gradients of PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blade_dist.learners import dense_head
from blade_dist.learners.dense_head import dense_logprobs


@given(
    st.integers(0, 1000),
    st.integers(1, 40),
    st.sampled_from([1.0, 0.7]),
    st.booleans(),
    st.integers(1, 200),
    st.booleans(),
)
def test_blocks_give_values_and_gradients_of_the_whole(
    seed: int, rows: int, temperature: float, biased: bool, block: int, alike: bool
) -> None:
    torch.manual_seed(seed)
    vocab, label = 23, torch.randint(23, (rows,))
    arguments = [torch.randn(rows, 8), torch.randn(vocab, 8), torch.randn(vocab) if biased else None]
    weights = torch.full((rows,), -0.3) if alike else torch.randn(rows)
    for tensor in arguments:
        if tensor is not None:
            tensor.requires_grad_()
    given = [tensor for tensor in arguments if tensor is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dense_head.BLOCK, "cpu", block)
        computed = dense_logprobs(*arguments, label, temperature)
        gradients = torch.autograd.grad((computed * weights).sum(), given)
    hidden, weight, bias = arguments
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    expected = -torch.nn.functional.cross_entropy(logits, label, reduction="none")
    torch.testing.assert_close(computed, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weights).sum(), given), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 100))
def test_several_labels_count_by_their_shares(seed: int, rows: int, block: int) -> None:
    torch.manual_seed(seed)
    vocab, label = 23, torch.randint(23, (rows, 4))  # one may be there twice
    share = torch.softmax(torch.randn(rows, 4), dim=1)
    given = [torch.randn(rows, 8, requires_grad=True), torch.randn(vocab, 8, requires_grad=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dense_head.BLOCK, "cpu", block)
        computed = dense_logprobs(*given, None, label, 1.0, share)
        gradients = torch.autograd.grad(computed.sum(), given)
    wanted = torch.zeros(rows, vocab).scatter_add(1, label, share)
    expected = -torch.nn.functional.cross_entropy(given[0] @ given[1].T, wanted, reduction="none")
    torch.testing.assert_close(computed, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), given), rtol=1e-4, atol=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden = torch.randn(4, 8, requires_grad=True)
    dense_logprobs(hidden, torch.randn(5, 8), None, torch.tensor([0, 1, 2, 3]), 1.0).sum().backward()
    assert hidden.grad is not None
