"""Log-probs over the legal tokens, from their logits alone: exact, and far cheaper than a whole vocabulary.

Where a node has few edges, its tokens' rows of the head are gathered (*narrow*); where it has many, as at the root, all
positions at the node share one product with its tokens' rows (*wide*). Gathering copies a row of the head for every
pair of position and token; a product copies the node's rows once, but has to blank out what single positions may not
write. The lists of a prompt all begin at one position, whose legal tokens are summed once. Pure torch and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blade_dist.catalog.legal import LegalSets
from blade_dist.catalog.trie import Trie

WIDE = 24
"""Legal tokens from which a node's positions share a product."""
BLOCK = {"cpu": 2**19, "cuda": 2**26}
"""Logits that are held at once: on a CPU what its cache holds, on a GPU enough to keep it busy."""


@dataclass(frozen=True)
class WideNode:
    """Positions at one node, and its tokens. All int64."""

    row: Tensor
    """``[n]`` which of the ``W`` positions."""
    token: Tensor
    """``[m]`` tokens of the node's edges."""
    illegal: Tensor
    """``[2, x]`` pairs (of ``n``, ascending; of ``m``) of a position and a token that its list may not go on with."""


@dataclass(frozen=True)
class HeadPlan:
    """The legal tokens of ``W`` positions."""

    row: Tensor
    """``[E]`` int64, narrow: which position, ascending."""
    token: Tensor
    """``[E]`` int64, narrow: a legal token of it."""
    wide: list[WideNode]

    def to(self, device: torch.device | str) -> HeadPlan:
        """On another device."""
        wide = [WideNode(n.row.to(device), n.token.to(device), n.illegal.to(device)) for n in self.wide]
        return HeadPlan(self.row.to(device), self.token.to(device), wide)


def head_plan(sets: LegalSets, trie: Trie) -> HeadPlan:
    """How to compute the log-probs over ``sets`` (each of two tokens or more).

    Two positions at a node with the edges ``e0 e1 e2`` (few), and the second has used ``e1`` up:

        row    0   0   0   1   1
        token  e0  e1  e2  e0  e2
    """
    wide = sets.sizes(trie) >= WIDE
    nodes = [_wide_node(np.flatnonzero(wide & (sets.node == node)), sets, trie) for node in np.unique(sets.node[wide])]
    narrow = np.flatnonzero(~wide)
    edges, gone = trie.edges_of(sets.node[narrow]), sets.gone.take(narrow)
    row, edge = np.repeat(narrow, edges.lengths), edges.flat
    # a pair (row, edge) as one number, so that a single look-up compares pairs
    legal = ~np.isin((row << 32) | edge, (np.repeat(narrow, gone.lengths) << 32) | gone.flat)
    return HeadPlan(torch.from_numpy(row[legal]), torch.from_numpy(trie.edge_token(edge[legal])), nodes)


def legal_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plan: HeadPlan,
    label: Tensor,
    place: Tensor,
    temperature: float,
) -> Tensor:
    """Log-probs (nats, float32) of ``label`` among the legal tokens, ``[D]``.

    ``log softmax(W h / T)`` over the legal tokens only, as constrained sampling draws them.

    Args:
        hidden: ``[W, H]``.
        weight: ``[V, H]`` of the output head.
        bias: ``[V]`` or None.
        plan: the legal tokens of the ``W`` positions.
        label: ``[D]`` int64.
        place: ``[D]`` int64, which of the ``W`` positions each label is written at.
        temperature: T.
    """
    written = _pairs(hidden[place], weight, bias, label) / temperature
    total = torch.zeros(len(hidden), device=hidden.device)
    if len(plan.row):
        logits = _pairs(hidden[plan.row], weight, bias, plan.token) / temperature
        total = total.index_add(0, *_logsumexp(logits, plan.row, len(hidden)))
    for node in plan.wide:
        part = None if bias is None else bias[node.token]
        summed = _WideLogsumexp.apply(hidden[node.row], weight[node.token], part, node.illegal, temperature)
        total = total.index_add(0, node.row, summed)
    return written - total[place]


class _WideLogsumexp(torch.autograd.Function):
    """Logsumexp of a node's legal tokens, ``[n]`` float32; logits exist block by block, and once more in the backward.

    With 3,600 items all logits take fifty times the memory of the hidden states, and a CPU waits longer for that memory
    than it computes.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, illegal: Tensor, temperature: float
    ) -> Tensor:
        total = hidden.new_empty(len(hidden), dtype=torch.float32)
        for block, logits in _wide_logits(hidden, weight, bias, illegal, temperature):
            total[block] = torch.logsumexp(logits, dim=1)
        ctx.save_for_backward(hidden, weight, bias, illegal, total)
        ctx.temperature = temperature
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, bias, illegal, total = ctx.saved_tensors
        scaled = gradient / ctx.temperature
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        for block, logits in _wide_logits(hidden, weight, bias, illegal, ctx.temperature):
            of_logits = logits.sub_(total[block, None]).exp_().mul_(scaled[block, None]).to(weight.dtype)
            of_hidden[block] = of_logits @ weight
            of_weight.addmm_(of_logits.t(), hidden[block])
            if of_bias is not None:
                of_bias += of_logits.sum(dim=0)
        return of_hidden, of_weight, of_bias, None, None


def _wide_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, illegal: Tensor, temperature: float
) -> Iterator[tuple[slice, Tensor]]:
    """Some rows after others, and their logits at the temperature, -inf where a token is illegal."""
    rows = max(1, BLOCK.get(hidden.device.type, BLOCK["cpu"]) // len(weight))
    starts = torch.arange(0, len(hidden), rows, device=hidden.device)
    edges = [*torch.searchsorted(illegal[0].contiguous(), starts).tolist(), illegal.shape[1]]
    for number, start in enumerate(range(0, len(hidden), rows)):
        block = slice(start, start + rows)
        logits = nn.functional.linear(hidden[block], weight, bias).float()
        logits = logits if temperature == 1 else logits.div_(temperature)
        row, token = illegal[:, edges[number] : edges[number + 1]]
        logits[row - start, token] = -torch.inf
        yield block, logits


def _pairs(hidden: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor) -> Tensor:
    """``[E]`` float32 logit of one token for each row of ``hidden`` ``[E, H]``."""
    logits = (hidden.float() * weight[token].float()).sum(dim=1)
    return logits if bias is None else logits + bias[token].float()


def _logsumexp(logits: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The rows that occur in ``row`` (ascending), and the logsumexp of the logits of each."""
    # The largest logit is taken out so that exp can't overflow; detached, as it cancels and needs no gradient.
    largest = torch.full((rows,), -torch.inf, device=logits.device).scatter_reduce(0, row, logits.detach(), "amax")
    sums = torch.zeros(rows, device=logits.device).index_add(0, row, torch.exp(logits - largest[row]))
    there = torch.unique_consecutive(row)
    return there, torch.log(sums[there]) + largest[there]


def _wide_node(rows: NDArray[np.int64], sets: LegalSets, trie: Trie) -> WideNode:
    """The positions ``rows``, which are all at one node; its tokens are numbered by edge."""
    edges = trie.edges_of(sets.node[rows[:1]])[0]
    token, gone = trie.edge_token(edges), sets.gone.take(rows)
    position, place = np.repeat(np.arange(len(rows)), gone.lengths), gone.flat - edges[0]
    return WideNode(*(torch.from_numpy(array) for array in (rows, token, np.stack([position, place]))))
