"""Lists that go on as they begin: at every place of a list, the distribution after its history is imitated. Pure torch.

A model that reads its own list as things that the user took recommends what goes with the list. Here it learns that a
list says nothing of the user: wherever in the list it stands, the next item is as likely as right after the history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blade_dist.batches import Ragged
from blade_dist.learners.dense_head import logsumexp, softmax_means


@dataclass(frozen=True)
class Continued:
    """``n`` prompts that go on with lists, padded on the right. Int64 tensors."""

    input_ids: Tensor
    """``[n, width]``"""
    last: Tensor
    """``[n]`` column of the prompt's last token, which predicts the list's first item."""
    places: Tensor
    """``[n, r]`` columns of the list that are to predict the same."""

    @classmethod
    def of(cls, prompts: Ragged, token: int, places: NDArray[np.int64]) -> Continued:
        """Lists of one token, which stands for any that a list may hold.

        The prompt ``p q`` with the places 1 and 3 is ``p q t t t``, whose columns 2 and 4 imitate column 1.

        Args:
            prompts: tokens, ``n`` rows, none empty.
            token: t.
            places: ``[n, r]`` places in the list, from 1.
        """
        ends = prompts.lengths
        width = int((ends + places.max(axis=1, initial=0)).max())
        ids = np.full((len(prompts), width), token, dtype=np.int64)
        ids[np.arange(width) < ends[:, None]] = prompts.flat
        return cls(*(torch.from_numpy(part) for part in (ids, ends - 1, ends[:, None] - 1 + places)))

    @property
    def wanted(self) -> Tensor:
        """``[n * (1 + r)]`` the positions that are read, ``row * width + column``: prompts' ends, then the places."""
        row = torch.arange(len(self.last), device=self.last.device) * self.input_ids.shape[1]
        return torch.cat([row + self.last, (row[:, None] + self.places).reshape(-1)])

    def to(self, device: torch.device | str) -> Continued:
        """On another device."""
        return Continued(*(part.to(device) for part in (self.input_ids, self.last, self.places)))


def imitation(hidden: Tensor, first: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``sum_v p(v) log q(v)`` (nats, float32) at each place, ``[n * r]``: minus the cross-entropy of q to p.

    p is the distribution after the prompt, q that at the place. Only the places learn: p, and the head that both share,
    are taken as they are. With the head W, the sum is ``h . (sum_v p(v) W_v) - logsumexp(W h)``, so that p is reduced
    to one vector per prompt.

    Args:
        hidden: ``[n * r, H]`` of the places, prompt after prompt.
        first: ``[n, H]`` of the prompts' last tokens.
        weight: ``[V, H]`` of the head.
        bias: ``[V]`` or None.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    _, mean, offset = softmax_means(first, weight, bias)
    each = len(hidden) // max(1, len(first))
    expected = (hidden * mean.repeat_interleave(each, dim=0)).sum(dim=1) + offset.repeat_interleave(each)
    return expected.float() - logsumexp(hidden, weight, bias)
