"""A next-item model to compare with: SASRec (Kang & McAuley, ICDM 2018) with a full softmax, as wide as the policy.

A causal transformer over item ids; a position's output, times the item embeddings, scores the item that comes next.
The K best-scored items that the user has not had are the list.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.quality.rows import rows_of, write_table
from blade_dist.batches import MISS, ExcludeHistory, Prompts, Ragged, Ranked
from blade_dist.catalog.catalog import Catalog
from blade_dist.evaluation.decoding import RANK, decodes
from blade_dist.learners.dense_head import dense_logprobs
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import ndcg
from blade_dist.settings import BuildSettings, Config, ListSettings
from blade_dist.stages.opened import open_run
from blade_dist.stages.searches import POOL, reranked
from blade_dist.training.patience import Patience

NAME = "SASRec"
CUT = 5
"""Its learning rate, its dropout and when it stops are chosen by validation NDCG at this cut-off."""
TRIAL = b"trial"
"""Key of the chosen learning rate and dropout in the metadata of the file of its rows."""
Trial = tuple[float, float]
"""Learning rate and dropout."""
TRIALS: tuple[Trial, ...] = ((2e-3, 0.3), (2e-3, 0.5), (4e-3, 0.3), (4e-3, 0.5))
"""What is tried; the one with the best validation NDCG is taken, as for the policies."""
POSITIONS = 1024
"""Predicted items of a batch, about: batches of a number of windows would be small where histories are short."""
EPOCHS = 40
"""The learning rate falls to 0 over these, along half a cosine."""
WARM_UP = 50
"""Steps over which the learning rate rises."""
PATIENCE = 8
"""Epochs without a better validation NDCG after which it stops."""
CHOOSING = 4096
"""Validation prompts, drawn by chance, that the choices are made by."""
CLIP = 1.0
"""Norm of the gradient."""
PROMPTS = 1024
"""Prompts that are scored at once."""


class SasRec(nn.Module):
    """Item and position embeddings, causal pre-norm layers, the item embeddings again as output."""

    def __init__(self, items: int, context: int, build: BuildSettings, dropout: float) -> None:
        super().__init__()
        self.context, self.padding = context, items
        self.items = nn.Embedding(items + 1, build.hidden_size, padding_idx=items)
        self.positions = nn.Embedding(context, build.hidden_size)
        layer = nn.TransformerEncoderLayer(
            *(build.hidden_size, build.heads, build.ffn_size, dropout), "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, build.layers, enable_nested_tensor=False)
        self.norm, self.dropout = nn.LayerNorm(build.hidden_size), nn.Dropout(dropout)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``[B, L]`` item ids, padded at the end, to ``[B, L, hidden]``."""
        places = torch.arange(rows.shape[1])
        inputs = self.dropout(self.items(rows) * math.sqrt(self.items.embedding_dim) + self.positions(places))
        later = torch.ones(len(places), len(places), dtype=torch.bool).triu(1)
        return self.norm(self.layers(inputs, mask=later))

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[..., hidden]`` to ``[..., items]``."""
        return hidden @ self.written.T

    @property
    def written(self) -> torch.Tensor:
        """``[items, hidden]``: their embeddings, without that of the padding."""
        return self.items.weight[: self.padding]


@dataclass(frozen=True)
class Fitted:
    """The model that did best on the validation prompts."""

    model: SasRec
    validation: float
    """NDCG of its lists there."""
    trial: Trial

    def lists(self, prompts: Prompts, k: int, exclude_history: ExcludeHistory) -> NDArray[np.int32]:
        """``[n, k]`` catalog indices, the best first."""
        return self.ranked(prompts, k, exclude_history).items

    def ranked(self, prompts: Prompts, size: int, exclude_history: ExcludeHistory) -> Ranked:
        """The ``size`` best items of each prompt with their logits, for re-rankers say."""
        return top_items(self.model, prompts, size, exclude_history)


def fit(
    data: tuple[Catalog, Ragged, Prompts],
    build: BuildSettings,
    context: int,
    lists: ListSettings,
    cut: int,
    seed: int,
    trials: Sequence[Trial] = TRIALS,
    epochs: int | None = None,
) -> Fitted:
    """Trains with every learning rate and dropout, each until validation NDCG stops improving; the best model.

    Args:
        data: the items, the users' training sequences, the validation prompts.
        build: width, layers, heads, feed-forward width.
        context: longest input; a longer sequence is cut to windows.
        lists: how long they are, and what they may not hold of a history.
        cut: of the NDCG.
        seed: of initialisation, order and dropout, and of the validation prompts that are looked at.
        trials: what is tried.
        epochs: passes over which the rate falls; None: :data:`EPOCHS`.
    """
    catalog, sequences, validation = data
    few = np.random.default_rng(seed).permutation(len(validation))[:CHOOSING]
    known = (catalog, sequences, validation.take(np.sort(few)))
    passes = epochs or EPOCHS
    tried = (_fit(known, build, context, lists, cut, seed, trial, passes) for trial in trials)
    return max(tried, key=lambda of: of.validation)


def _fit(
    data: tuple[Catalog, Ragged, Prompts],
    build: BuildSettings,
    context: int,
    lists: ListSettings,
    cut: int,
    seed: int,
    trial: Trial,
    epochs: int,
) -> Fitted:
    catalog, sequences, validation = data
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SasRec(len(catalog), context, build, dropout=trial[1])
    optimizer = torch.optim.AdamW(model.parameters(), trial[0], weight_decay=0.01)
    patience, best, validation_ndcg, step = Patience(), copy.deepcopy(model.state_dict()), 0.0, 0
    for epoch in range(epochs):
        model.train()
        batches = list(_batches(sequences, context, model.padding, rng))
        for number, rows in enumerate(batches):
            inputs, wanted = rows[:, :-1], rows[:, 1:]
            real = wanted != model.padding
            loss = -dense_logprobs(model(inputs)[real], model.written, None, wanted[real], 1.0).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.param_groups[0]["lr"] = trial[0] * _share_of_rate(step, (epoch + number / len(batches)) / epochs)
            optimizer.step()
            step += 1
        items = top_items(model, validation, lists.k, lists.exclude_history).items
        score = float(ndcg(Lists(items, validation.targets, validation.history, catalog), cut).mean())
        if patience.see(score):
            best, validation_ndcg = copy.deepcopy(model.state_dict()), score
        if patience.over(PATIENCE):
            break
    model.load_state_dict(best)
    return Fitted(model, validation_ndcg, trial)


def _share_of_rate(step: int, done: float) -> float:
    """Of the learning rate: a short rise, then half a cosine; ``done``: share of all epochs."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(sequences: Ragged, context: int, padding: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Windows in random order, ``[B, the longest one's items]``, cut anew in every epoch so that contexts differ.

    Those of about the same length share a batch, so that little of it is padding.
    """
    windows = [window for row in range(len(sequences)) for window in cut_windows(sequences[row], context, rng)]
    order = rng.permutation(len(windows))
    order = order[np.argsort([len(windows[number]) for number in order], kind="stable")]
    predicted = np.cumsum([len(windows[number]) - 1 for number in order])
    batches = np.split(order, np.flatnonzero(np.diff(predicted // POSITIONS)) + 1)
    for turn in rng.permutation(len(batches)):
        yield padded([windows[number] for number in batches[turn]], padding)


def padded(rows: Sequence[NDArray[np.int32]], padding: int) -> torch.Tensor:
    """``[B, L]``, padded at the end."""
    table = np.full((len(rows), max(map(len, rows))), padding)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


def cut_windows(sequence: NDArray[np.int32], context: int, rng: np.random.Generator) -> list[NDArray[np.int32]]:
    """Pieces of at most ``context + 1`` items, each beginning with the last of the one before: every item but the first
    is predicted once. The first piece has a random length."""
    cuts = np.arange(rng.integers(1, context + 1), len(sequence) - 1, context)
    return [sequence[a : b + 1] for a, b in zip([0, *cuts], [*cuts, len(sequence) - 1], strict=True) if b > a]


@torch.no_grad()
def top_items(model: SasRec, prompts: Prompts, size: int, exclude_history: ExcludeHistory) -> Ranked:
    """The items with the highest scores after the history's last ``context`` items, ``C`` of ``size``."""
    model.eval()
    found = []
    for start in range(0, len(prompts), PROMPTS):
        asked = prompts.take(np.arange(start, min(start + PROMPTS, len(prompts))))
        histories = [asked.history[row][-model.context :] for row in range(len(asked))]
        last = torch.tensor([len(history) - 1 for history in histories])
        scores = model.scores(model(padded(histories, model.padding))[torch.arange(len(histories)), last])
        excluded = asked.excluded(exclude_history)
        for number, row in enumerate(scores):
            row[torch.from_numpy(excluded[number].astype(np.int64))] = -torch.inf
        best = scores.topk(size)
        items = best.indices.masked_fill(best.values == -torch.inf, MISS)
        found.append(Ranked(items.numpy().astype(np.int32), best.values.numpy()))
    return Ranked.concat(found)


def write_rows(config: Config, path: Path, trials: Sequence[Trial], epochs: int | None = None) -> None:
    """Fits the model to the training part of the run's data; writes what `blade-dist evaluate` would of its lists.

    Those of its best items that re-rankers choose are among them, as ``evaluate.rerank`` says.

    Args:
        config: settings of a run with data, a reference and a prior; ``model.build`` says how large the model is.
        path: the Parquet file.
        trials: learning rates and dropouts that are tried; :func:`chosen_trial` reads the best.
        epochs: passes over which the rate falls; None: :data:`EPOCHS`.
    """
    run = open_run(config)
    data, k = run.data, config.lists.k
    validation, test = (table.rows(np.arange(len(table))) for table in (data.validation, data.test))
    known = (data.catalog, data.sequences.rows(np.arange(len(data.sequences))), validation)
    build, seed = config.model.build, config.run.seed
    fitted = fit(known, build, config.data.max_history, config.lists, CUT, seed, trials, epochs)
    pool = fitted.ranked(test, min(max(POOL, k), len(data.catalog)), config.lists.exclude_history)
    # it ranks items and does not sample: beside each way of decoding that others have it shows the same list
    lists = {(NAME, decode): pool.items[:, :k] for decode in decodes(config)}
    lists |= {(f"{NAME} {how}", RANK): items for how, items in reranked(run, test, pool).items()}
    table = rows_of(run, test, lists)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), TRIAL: "{:g} {:g}".format(*fitted.trial)})
    write_table(table, path)


def chosen_trial(path: Path) -> Trial:
    """Learning rate and dropout of the model whose rows these are."""
    lr, dropout = pq.read_schema(path).metadata[TRIAL].decode().split()
    return float(lr), float(dropout)
