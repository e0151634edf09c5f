"""Log-probs over the whole vocabulary without ever holding all logits. Pure torch.

With 12,000 items the logits of a micro-batch take a hundred times the memory of its hidden states, and reading them
back costs more than computing them. So they are made block by block, and what the backward needs is made of each block
while it is there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = {"cpu": 2**21, "cuda": 2**26}
"""Logits that are held at once: on a CPU about what its cache holds, on a GPU enough to keep it busy."""
ALIGNED = 16
"""A row of logits begins at a multiple of so many numbers: a CPU is slow to write into rows that begin anywhere."""


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
    if share is None:
        label, share = label[:, None], torch.ones((len(label), 1), device=hidden.device)
    result: Tensor = _DenseLogprobs.apply(hidden, weight, bias, label, share, temperature, torch.is_grad_enabled())
    return result


class _DenseLogprobs(torch.autograd.Function):
    """Computes each logit once where every row counts the same, as in fine-tuning.

    The gradient of a row's log-prob is known as soon as its logits are; what the row counts scales it. The weight's
    gradient is a sum over rows, so that it must be made again where they do not all count the same.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        label: Tensor,
        share: Tensor,
        temperature: float,
        learns: bool,
    ) -> Tensor:
        result = hidden.new_empty(len(hidden), dtype=torch.float32)
        of_hidden = torch.empty_like(hidden)
        of_head = _HeadGradient(weight, bias) if learns and ctx.needs_input_grad[1] else None
        logits_of = _Logits(hidden, weight, bias, temperature)
        for block in logits_of.blocks:
            logits = logits_of(block)
            logprob = (logits.gather(1, label[block]) * share[block]).sum(dim=1)
            total, exp_sum = _exp_(logits)
            result[block] = logprob - total
            if learns:
                slope = _slope_(logits, exp_sum, label[block], share[block]).to(weight.dtype)
                torch.mm(slope, weight, out=of_hidden[block])
                if of_head is not None:
                    of_head.add(slope, hidden[block])
        ctx.save_for_backward(hidden, weight, bias, label, share, of_hidden)
        ctx.of_head, ctx.temperature = of_head, temperature
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, label, share, of_hidden = ctx.saved_tensors
        counts = (gradients[0] / ctx.temperature)[:, None]
        of_weight = of_bias = None
        if ctx.of_head is not None and len(counts):
            if bool((counts == counts[0]).all()):
                of_weight, of_bias = ctx.of_head.times(counts[0, 0])
            else:
                of_head, logits_of = _HeadGradient(weight, bias), _Logits(hidden, weight, bias, ctx.temperature)
                for block in logits_of.blocks:
                    logits = logits_of(block)
                    _, exp_sum = _exp_(logits)
                    slope = _slope_(logits, exp_sum, label[block], share[block]).mul_(counts[block])
                    of_head.add(slope.to(weight.dtype), hidden[block])
                of_weight, of_bias = of_head.weight, of_head.bias
        return (of_hidden * counts).to(hidden.dtype), of_weight, of_bias, None, None, None, None


class _HeadGradient:
    """Of weight ``[V, H]`` and bias ``[V]``, summed up block by block."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.zeros_like(weight)
        self.bias = None if bias is None else torch.zeros_like(bias)

    def add(self, slope: Tensor, hidden: Tensor) -> None:
        """``slope``: ``[n, V]`` gradient of the logits, ``hidden``: ``[n, H]``."""
        self.weight.addmm_(slope.t(), hidden)
        if self.bias is not None:
            self.bias += slope.sum(dim=0)

    def times(self, factor: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both gradients, scaled by a number."""
        return self.weight * factor, None if self.bias is None else self.bias * factor


def logsumexp(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``log sum_v exp(W_v h + b_v)`` of each row (nats, float32), ``[D]``; only ``hidden`` gets a gradient.

    Args:
        hidden: ``[D, H]``.
        weight: ``[V, H]``.
        bias: ``[V]`` or None.
    """
    result: Tensor = _LogSumExp.apply(hidden, weight, bias)
    return result


class _LogSumExp(torch.autograd.Function):
    """The gradient is the mean of W's rows under the softmax, which is made at once: each logit is computed once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        total, mean, _ = softmax_means(hidden, weight, bias)
        ctx.save_for_backward(mean)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (mean,) = ctx.saved_tensors
        return (gradients[0][:, None] * mean).to(mean.dtype), None, None


@torch.no_grad()
def softmax_means(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """With p the softmax of ``W h + b``: its logsumexp (float32 ``[D]``), ``sum_v p_v W_v`` and ``sum_v p_v b_v``.

    Args:
        hidden: ``[D, H]``.
        weight: ``[V, H]``.
        bias: ``[V]`` or None, which is 0.

    Returns:
        ``[D]``, ``[D, H]``, ``[D]``.
    """
    total = hidden.new_empty(len(hidden), dtype=torch.float32)
    mean, offset = torch.empty_like(hidden), hidden.new_zeros(len(hidden))
    logits_of = _Logits(hidden, weight, bias, 1.0)
    for block in logits_of.blocks:
        exp = logits_of(block)
        total[block], exp_sum = _exp_(exp)
        likely = exp.div_(exp_sum[:, None]).to(weight.dtype)
        torch.mm(likely, weight, out=mean[block])
        if bias is not None:
            offset[block] = likely @ bias
    return total, mean, offset


class _Logits:
    """``(W h + b) / T`` of a block of rows at a time, float32, always in the same memory."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> None:
        self._hidden, self._weight, self._bias, self._temperature = hidden, weight, bias, temperature
        rows = max(1, min(BLOCK.get(hidden.device.type, BLOCK["cpu"]) // len(weight), len(hidden)))
        self.blocks = [slice(start, start + rows) for start in range(0, len(hidden), rows)]
        width = -(-len(weight) // ALIGNED) * ALIGNED
        self._memory = weight.new_empty((rows, width))[:, : len(weight)]

    def __call__(self, block: slice) -> Tensor:
        hidden = self._hidden[block]
        logits = torch.mm(hidden, self._weight.t(), out=self._memory[: len(hidden)])
        if self._bias is not None:
            logits += self._bias
        logits = logits.float()
        return logits if self._temperature == 1 else logits.div_(self._temperature)


def _exp_(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's logsumexp ``[n]``; ``logits`` become their exponentials, up to a factor, and the sum of these."""
    most = logits.amax(dim=1)
    exp_sum = logits.sub_(most[:, None]).exp_().sum(dim=1)
    return exp_sum.log() + most, exp_sum


def _slope_(exp: Tensor, exp_sum: Tensor, label: Tensor, share: Tensor) -> Tensor:
    """``exp`` becomes d log p(label) / d logit: 1 at the label (its share at each of several), less the probability."""
    return exp.div_(-exp_sum[:, None]).scatter_add_(1, label, share)
