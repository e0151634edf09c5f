"""Lists that the learner writes by itself: the likeliest legal ones, as an engine finds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.trie import build_trie
from blade_dist.learners.packing import Beginnings
from blade_dist.learners.policy import Policy
from blade_dist.training.decode import write_lists
from tests.learners.test_legal_head import VOCAB, model

K = 3
ITEMS = {
    "one token": Ragged.of([[token] for token in range(10, 22)]),
    "two tokens": Ragged.of([[10 + first, 20 + second] for first in range(3) for second in range(4)]),
}
PROMPTS = Ragged.of([[10, 20, 11], [21], [12, 22, 10, 21, 11, 20]])
EXCLUDED = Ragged.of([[0, 5], [], [1, 2, 3, 4, 7]])


class Alone:
    """One rank without DeepSpeed."""

    device: torch.device | str = "cpu"

    def __init__(self) -> None:
        self.policy = Policy(model("llama"), temperature=1.0).eval()

    def max_over_ranks(self, value: float) -> float:
        return value

    @torch.no_grad()
    def next_logits(self, rows: Ragged) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        order = np.arange(len(rows))[::-1]
        for start in range(0, len(rows), 2):
            part = order[start : start + 2]
            yield part, self.policy(Beginnings.of(rows.take(part), pad=0))


def written(decode: Any, kind: str, width: int = 1) -> np.ndarray:
    legality = Legality(build_trie(ITEMS[kind]), K, VOCAB - 1)
    return write_lists(Alone(), PROMPTS, EXCLUDED, legality, decode, width)


def item_scores(prompt: list[int], kind: str, taken: set[int]) -> np.ndarray:
    """Log-prob of each item next, over the legal tokens at each of its tokens; by the plain model."""
    network, items = model("llama"), ITEMS[kind]
    free = [item for item in range(len(items)) if item not in taken]
    scores = np.full(len(items), -np.inf)
    for item in free:
        tokens, total = items[item].tolist(), 0.0
        for place, token in enumerate(tokens):
            rivals = [items[other].tolist() for other in free if items[other].tolist()[:place] == tokens[:place]]
            legal = sorted({rival[place] for rival in rivals})
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([[*prompt, *tokens[:place]]])).logits[0, -1, legal]
            total += float(torch.log_softmax(logits.float(), dim=0)[legal.index(token)])
        scores[item] = total
    return scores


@pytest.mark.parametrize("kind", ITEMS)
def test_rank_gives_the_likeliest_first_items(kind: str) -> None:
    for row, items in enumerate(written("rank", kind)):
        scores = item_scores(PROMPTS[row].tolist(), kind, set(EXCLUDED[row].tolist()))
        if kind == "one token":  # for longer items the search keeps K beginnings, and may lose one
            assert items.tolist() == np.argsort(-scores, kind="stable")[:K].tolist()
        assert len(set(items.tolist())) == K
        assert (np.diff(scores[items]) <= 1e-6).all()
        assert np.isfinite(scores[items]).all()


def test_a_list_takes_the_likeliest_item_after_those_before() -> None:
    for row, items in enumerate(written("list", "one token")):
        prompt, taken = PROMPTS[row].tolist(), set(EXCLUDED[row].tolist())
        for item in items.tolist():
            assert item == int(item_scores(prompt, "one token", taken).argmax())
            prompt, taken = [*prompt, *ITEMS["one token"][item].tolist()], taken | {item}


@pytest.mark.parametrize("kind", ITEMS)
def test_a_wider_beam_finds_lists_at_least_as_likely(kind: str) -> None:
    def total(row: int, items: list[int]) -> float:
        prompt, taken, score = PROMPTS[row].tolist(), set(EXCLUDED[row].tolist()), 0.0
        for item in items:
            score += item_scores(prompt, kind, taken)[item]
            prompt, taken = [*prompt, *ITEMS[kind][item].tolist()], taken | {item}
        return score

    for row, (greedy, wide) in enumerate(zip(written("list", kind), written("beam", kind, 40), strict=True)):
        assert total(row, wide.tolist()) >= total(row, greedy.tolist()) - 1e-5
