"""Log-probs over the legal tokens, from their logits alone: exact, and far cheaper than a whole vocabulary.

Where a node has few edges, its tokens' rows of the head are gathered (*narrow*); where it has many, as at the root, all
positions at the node share one product with its tokens' rows (*wide*). Gathering copies a row of the head for every
pair of position and token; a product copies the node's rows once, but has to blank out what single positions may not
write. Pure torch and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blade_dist.catalog.legal import LegalSets
from blade_dist.catalog.trie import Trie

WIDE = 24
"""Legal tokens from which a node's positions share a product."""


@dataclass(frozen=True)
class WideNode:
    """Positions at one node, and its tokens. All int64."""

    row: Tensor
    """``[n]`` which of the ``D`` positions."""
    token: Tensor
    """``[m]`` tokens of the node's edges."""
    illegal: Tensor
    """``[2, x]`` pairs (of ``n``, of ``m``) of a position and a token that its list may not go on with."""


@dataclass(frozen=True)
class HeadPlan:
    """The legal tokens of ``D`` positions."""

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
    hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: HeadPlan, label: Tensor, temperature: float
) -> Tensor:
    """Log-probs (nats, float32) of ``label`` among the legal tokens, ``[D]``.

    ``log softmax(W h / T)`` over the legal tokens only, as constrained sampling draws them.

    Args:
        hidden: ``[D, H]``.
        weight: ``[V, H]`` of the output head.
        bias: ``[V]`` or None.
        plan: the legal tokens.
        label: ``[D]`` int64.
        temperature: T.
    """
    written = _pairs(hidden, weight, bias, label) / temperature
    total = torch.zeros_like(written)
    if len(plan.row):
        logits = _pairs(hidden[plan.row], weight, bias, plan.token) / temperature
        total = total.index_add(0, *_logsumexp(logits, plan.row, len(hidden)))
    for node in plan.wide:
        part = None if bias is None else bias[node.token]
        logits = nn.functional.linear(hidden[node.row], weight[node.token], part).float()
        logits = logits if temperature == 1 else logits / temperature
        logits[node.illegal[0], node.illegal[1]] = -torch.inf
        total = total.index_add(0, node.row, torch.logsumexp(logits, dim=1))
    return written - total


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
