"""Log-probs over the whole vocabulary without ever holding all logits. Pure torch.

With 12,000 items the logits of a micro-batch take a hundred times the memory of its hidden states, and reading them
back costs more than computing them. So they are made block by block, in the forward and once more in the backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = {"cpu": 2**20, "cuda": 2**26}
"""Logits that are held at once: on a CPU about what its cache holds, on a GPU enough to keep it busy."""


def dense_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, temperature: float, share: Tensor | None = None
) -> Tensor:
    """Log-probs (nats, float32) of ``label`` over the whole vocabulary, ``[D]``: ``log softmax(W h / T)``.

    With shares, of several labels each: ``sum_s share_s log softmax(W h / T)_s``.

    Args:
        hidden: ``[D, H]``.
        weight: ``[V, H]`` of the output head.
        bias: ``[V]`` or None.
        label: ``[D]`` int64; with shares ``[D, S]``.
        temperature: T.
        share: float32 ``[D, S]``, each row's sum is 1.
    """
    rows = max(1, BLOCK.get(hidden.device.type, BLOCK["cpu"]) // len(weight))
    if share is None:
        label, share = label[:, None], torch.ones((len(label), 1), device=hidden.device)
    result: Tensor = _DenseLogprobs.apply(hidden, weight, bias, label, share, temperature, rows)
    return result


class _DenseLogprobs(torch.autograd.Function):
    """Keeps each row's logsumexp; the backward computes the block's logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        label: Tensor,
        share: Tensor,
        temperature: float,
        rows: int,
    ) -> Tensor:
        result = hidden.new_empty(len(hidden), dtype=torch.float32)
        total = torch.empty_like(result)
        for block in _blocks(len(hidden), rows):
            logits = _logits(hidden[block], weight, bias, temperature)
            total[block] = torch.logsumexp(logits, dim=1)
            result[block] = (logits.gather(1, label[block]) * share[block]).sum(dim=1) - total[block]
        ctx.save_for_backward(hidden, weight, bias, label, share, total)
        ctx.temperature, ctx.rows = temperature, rows
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, bias, label, share, total = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for block in _blocks(len(hidden), ctx.rows):
            # d log p(label) / d logit is 1 at the label (its share at each of several), less the probability everywhere
            of_logits = _logits(hidden[block], weight, bias, ctx.temperature)
            of_logits = of_logits.sub_(total[block, None]).exp_().mul_(-gradient[block, None])
            of_logits.scatter_add_(1, label[block], gradient[block, None] * share[block])
            of_logits = of_logits.div_(ctx.temperature).to(weight.dtype)
            of_hidden[block] = of_logits @ weight
            if of_weight is not None:
                of_weight.addmm_(of_logits.t(), hidden[block])
            if of_bias is not None:
                of_bias += of_logits.sum(dim=0)
        return of_hidden, of_weight, of_bias, None, None, None, None


def _blocks(size: int, rows: int) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, size, rows)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1 else logits / temperature
