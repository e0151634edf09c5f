"""A small list-wise policy that begins as a ranking: a frozen ranker, and a recurrent part that writes the list.

Before it is trained, the logits of every position are those of the ranker for the next item, less what the list holds:
its greedy list is the ranker's top K, and its samples are the reference's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.quality.probes.logs import Log
from benchmarks.quality.sasrec import SasRec, fit, padded
from blade_dist.batches import Prompts, Ranked
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.settings import BuildSettings, ListSettings

CONTEXT = 50
CHUNK = 256
"""Prompts that are read or evaluated at once."""
BUILD = BuildSettings(hidden_size=64, layers=2, heads=2, kv_heads=1, ffn_size=192)


@dataclass(frozen=True)
class Start:
    """Prompts as the ranker reads them: computed once, as it is frozen."""

    prompts: Prompts
    hidden: torch.Tensor
    """``[P, d]`` after the history."""
    pool: torch.Tensor
    """``[P, C]`` the ranker's best items that the user has not had, the best first: what a list is chosen from."""
    logits: torch.Tensor
    """``[P, C]`` of the ranker, at a temperature of 1: log-probs."""

    def __len__(self) -> int:
        return len(self.hidden)

    def take(self, rows: NDArray[np.int64]) -> Start:
        return Start(self.prompts.take(rows), self.hidden[rows], self.pool[rows], self.logits[rows])

    def chunks(self) -> Iterator[Start]:
        for first in range(0, len(self), CHUNK):
            yield self.take(np.arange(first, min(first + CHUNK, len(self))))

    @property
    def ranked(self) -> Ranked:
        """The pool with its log-probs."""
        return Ranked(self.pool.numpy().astype(np.int32), self.logits.numpy())


@dataclass(frozen=True)
class Written:
    """Lists of ``B`` prompts, ``G`` each."""

    items: NDArray[np.int32]
    """``[B, G, K]`` catalog indices."""
    logprobs: torch.Tensor
    """``[B, G, K]`` under the policy."""
    reference: torch.Tensor
    """``[B, G, K]`` under the reference."""


class Writer(nn.Module):
    """Reads the list so far with a GRU; what it says is added to the history's hidden state."""

    def __init__(self, ranker: SasRec) -> None:
        super().__init__()
        vectors = ranker.written.detach()
        items, width = vectors.shape
        self.register_buffer("vectors", vectors)
        self.read = nn.Embedding(items, width, _weight=vectors.clone())
        self.cell, self.out, self.shift = nn.GRUCell(width, width), nn.Linear(width, width), nn.Embedding(items, width)
        for weight in (self.out.weight, self.out.bias, self.shift.weight):
            nn.init.zeros_(weight)

    def write(self, start: Start, group: int, k: int, temperature: float) -> Written:
        """``group`` lists for each prompt, sampled at ``temperature``; the greedy one where ``group`` is 0."""
        greedy, group = group == 0, max(1, group)
        heat = 1.0 if greedy else temperature
        prompts, candidates = start.pool.shape
        vectors = (self.vectors[start.pool] + self.shift(start.pool)).transpose(1, 2)
        hidden = start.hidden[:, None].expand(-1, group, -1)
        taken = torch.zeros(prompts, group, candidates, dtype=torch.bool)
        state, inputs = None, hidden.reshape(prompts * group, -1)
        found: list[tuple[torch.Tensor, ...]] = []
        for _ in range(k):
            state = self.cell(inputs, state)
            query = hidden + self.out(state).view(hidden.shape)
            logits = (query @ vectors / heat).masked_fill(taken, -torch.inf)
            mine = logits.log_softmax(2)
            with torch.no_grad():
                theirs = (start.logits[:, None] / heat).masked_fill(taken, -torch.inf).log_softmax(2)
                column = mine.argmax(2, keepdim=True) if greedy else _drawn(mine)
            item = start.pool[:, None].expand(-1, group, -1).gather(2, column)
            found.append((item[..., 0], mine.gather(2, column)[..., 0], theirs.gather(2, column)[..., 0]))
            taken = taken.scatter(2, column, True)
            inputs = self.read(item.reshape(-1))
        items, logprobs, reference = (torch.stack(part, dim=2) for part in zip(*found, strict=True))
        return Written(items.numpy().astype(np.int32), logprobs, reference)


def _drawn(logprobs: torch.Tensor) -> torch.Tensor:
    """A column of each row by its chances, ``[B, G, 1]``; one that has none is never drawn."""
    reached = logprobs.exp().cumsum(2)
    drawn = torch.rand(*reached.shape[:2], 1) * reached[..., -1:] * (1 - 1e-6)
    return torch.searchsorted(reached, drawn, right=True)


def fit_ranker(log: Log, k: int, seed: int, epochs: int) -> SasRec:
    """Of the users' beginnings; when it stops is chosen by the validation prompts."""
    data = (log.catalog, log.sequences, log.prompts["validation"])
    return fit(data, BUILD, CONTEXT, ListSettings(k=k), k, seed, trials=((2e-3, 0.4),), epochs=epochs).model


def kept_ranker(log: Log, k: int, seed: int, epochs: int, file: Path | None) -> SasRec:
    """As :func:`fit_ranker`; ``file`` is where it is kept, and taken from where it is there."""
    if file is not None and file.is_file():
        ranker = SasRec(len(log.catalog), CONTEXT, BUILD, dropout=0.0)
        ranker.load_state_dict(torch.load(file, weights_only=True))
        return ranker
    ranker = fit_ranker(log, k, seed, epochs)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(ranker.state_dict(), file)
    return ranker


@torch.no_grad()
def read_prompts(ranker: SasRec, prompts: Prompts, candidates: int) -> Start:
    """What the frozen ranker says of each prompt; a small catalog leaves fewer candidates, the same number to all."""
    ranker.eval()
    size = min(candidates, ranker.padding - int(prompts.seen.lengths.max()))
    parts: list[tuple[torch.Tensor, ...]] = []
    for first in range(0, len(prompts), CHUNK):
        asked = prompts.take(np.arange(first, min(first + CHUNK, len(prompts))))
        histories = [asked.history[row][-CONTEXT:] for row in range(len(asked))]
        last = torch.tensor([len(history) - 1 for history in histories])
        hidden = ranker(padded(histories, ranker.padding))[torch.arange(len(histories)), last]
        scores = ranker.scores(hidden)
        for row, line in enumerate(scores):
            line[torch.from_numpy(asked.seen[row].astype(np.int64))] = -torch.inf
        best = scores.log_softmax(1).topk(size)
        parts.append((hidden, best.indices, best.values))
    return Start(prompts, *(torch.cat(part) for part in zip(*parts, strict=True)))


def score(reward: Composite, log: Log, start: Start, items: NDArray[np.int32]) -> tuple[NDArray, dict[str, NDArray]]:
    """Reward and its parts of ``[B, G, K]`` lists, ``[B, G]`` each."""
    prompts, group, k = items.shape
    rows = np.repeat(np.arange(prompts), group)
    asked = start.prompts.take(rows)
    lists = Lists(items.reshape(-1, k), asked.targets, asked.history, log.catalog, None, start.ranked.take(rows))
    total, parts = reward.score(lists)
    return total.reshape(prompts, group), {name: values.reshape(prompts, group) for name, values in parts.items()}
