"""Lists for requests, by one engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blade_dist.batches import MISS, Ragged, Ranked, Rollouts, offsets_of
from blade_dist.rollouts.request import RolloutRequest
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.request import Resolved

List = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Catalog indices of the items, the best first, and the log-prob (nats) of each: given the prompt and the items before
it, or with ``rank`` given the prompt alone."""


class Writer(Protocol):
    """An engine, see :class:`blade_dist.rollouts.engine.Engine`."""

    def generate(self, request: RolloutRequest) -> Rollouts: ...

    def beam_search(self, request: RolloutRequest, width: int) -> Rollouts: ...

    def best_items(self, request: RolloutRequest) -> Ranked: ...


class Recommender:
    """Answers requests as ``evaluate`` does: with the same engine, legality, rules and order of equals."""

    def __init__(self, opened: OpenedExport, engine: Writer) -> None:
        self.opened = opened
        self._engine = engine

    def lists(self, requests: Sequence[Resolved]) -> list[List]:
        """A list for each request, in order; shorter than K where rules leave no further item.

        Requests that are decoded alike, under the same rules, are written together.
        """
        own = self.opened.manifest.lists
        groups: dict[tuple[str, str], list[int]] = {}
        for row, one in enumerate(requests):
            key = "" if one.lists is own or one.lists == own else one.lists.model_dump_json()
            groups.setdefault((one.decode, key), []).append(row)
        found: dict[int, List] = {}
        for (decode, _), rows in groups.items():
            lists = self._written([requests[row] for row in rows], decode)
            found.update(zip(rows, lists, strict=True))
        return [found[row] for row in range(len(requests))]

    def _written(self, requests: list[Resolved], decode: str) -> list[List]:
        own = self.opened.manifest.lists
        request = RolloutRequest(
            prompt=np.arange(len(requests)),
            tokens=self.opened.codec.encode_prompts(Ragged.of([one.history for one in requests])),
            excluded=Ragged.of([one.excluded for one in requests]),
            seed=np.array([one.seed for one in requests], dtype=np.int64),
            group_size=1,
            temperature=1.0 if decode == "sampled" else 0.0,
            lists=None if requests[0].lists == own else requests[0].lists,
        )
        if decode == "rank":
            best = self._engine.best_items(request)
            kept = best.items != MISS
            return [(best.items[row][kept[row]], best.scores[row][kept[row]]) for row in range(len(best))]
        if decode == "beam":
            return self._read(self._engine.beam_search(replace(request, temperature=1.0), self.opened.manifest.beams))
        return self._read(self._engine.generate(request))

    def _read(self, rollouts: Rollouts) -> list[List]:
        """Items, and the sum of the log-probs of each one's tokens, with its separator."""
        lengths, tokens = self.opened.codec.item_blocks.lengths, rollouts.tokens
        lists = []
        for row, items in enumerate(rollouts.items[:, 0]):
            written = items[items != MISS]  # misses stand at the end: no list is written that breaks a rule
            values = rollouts.logprobs[tokens.offsets[row] : tokens.offsets[row + 1]].astype(np.float64)
            total = np.concatenate([[0.0], np.cumsum(values)])
            lists.append((written, np.diff(total[offsets_of(lengths[written])])))
        return lists
