"""Lists that go on as they begin: at every place of a list, the distribution after its history is imitated. Pure torch.

A model that reads its own list as things that the user took recommends what goes with the list. Here it learns that a
list says nothing of the user: wherever in the list it stands, the next item is as likely as right after the history.
"""

from __future__ import annotations

from torch import Tensor

from blade_dist.learners.dense_head import logsumexp, softmax_means


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
