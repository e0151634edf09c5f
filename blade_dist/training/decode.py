"""Lists that the learner itself writes, so that fine-tuning is stopped by what will be served; no engine is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.legality import Legality
from blade_dist.rollouts.beam import Beams
from blade_dist.rollouts.constrain import LegalMask
from blade_dist.settings import Decode


class Writer(Protocol):
    """What writes lists: a learner, see :class:`blade_dist.learners.zero.DeepSpeedLearner`."""

    device: torch.device | str

    def next_logits(self, rows: Ragged) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]: ...

    def max_over_ranks(self, value: float) -> float: ...


def write_lists(
    learner: Writer, prompts: Ragged, excluded: Ragged, legality: Legality, decode: Decode, width: int
) -> NDArray[np.int32]:
    """int32 ``[n, K]`` catalog indices: this rank's lists, as an engine would write them (collective).

    Args:
        learner: holds the policy.
        prompts: tokens, ``n`` rows.
        excluded: catalog indices that a list may not hold, ``n`` rows.
        legality: which lists are legal.
        decode: ``list`` is a search of width 1, ``beam`` one of ``width``, ``rank`` one for single items.
        width: of ``beam``.
    """
    k = legality.k
    if decode == "rank":
        beams = Beams(replace(legality, k=1), excluded, k)
        _search(learner, prompts, beams, LegalMask(legality, learner.device), k)
        return beams.ranked_items().items
    width = width if decode == "beam" else 1
    beams = Beams(legality, excluded, width)
    _search(learner, prompts, beams, LegalMask(legality, learner.device), width)
    return beams.ranked()[:, 0]


def _search(learner: Writer, prompts: Ragged, beams: Beams, mask: LegalMask, width: int) -> None:
    while True:
        slots = beams.undecided()
        if not learner.max_over_ranks(len(slots)):
            return
        owners = np.array([beams.prompt_of(slot) for slot in slots.tolist()], dtype=np.int64)
        written = Ragged.of([beams.tokens(slot) for slot in slots.tolist()])
        rows = _joined(prompts.take(owners), written)
        choices: list[dict[int, float]] = [{} for _ in slots]
        for part, logits in learner.next_logits(rows):
            allowed = mask.allowed(beams.legal(slots[part]), logits.shape[1])
            likely = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), dim=1).topk(width)
            for row, tokens, values in zip(part, likely.indices.tolist(), likely.values.tolist(), strict=True):
                choices[row] = {token: value for token, value in zip(tokens, values, strict=True) if value > -np.inf}
        if len(slots):
            beams.extend(slots, choices)


def _joined(first: Ragged, second: Ragged) -> Ragged:
    """Each row of ``first`` followed by that of ``second``."""
    row = np.concatenate([np.repeat(np.arange(len(part)), part.lengths) for part in (first, second)])
    return Ragged.of_pairs(row, np.concatenate([first.flat, second.flat]), len(first))
