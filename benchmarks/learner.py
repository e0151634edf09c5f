"""The learner alone: forward, backward and optimizer step with a shared prefix against without, and its heads."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch.nn import functional

from benchmarks.report import show, write_result
from blade_dist.batches import Ragged
from blade_dist.catalog.legality import Legality
from blade_dist.catalog.trie import build_trie
from blade_dist.learners.dense_head import dense_logprobs
from blade_dist.learners.packing import PromptLists, collate, legal_tokens, microbatches
from blade_dist.learners.policy import Policy, build_model, sequence_logprobs, why_not_packed
from blade_dist.settings import ModelSettings

GOALS = {"shared_prefix_speedup": 6.5, "legal_head_speedup": 1.5}
SHAPE = {"hidden_size": 192, "layers": 6, "heads": 6, "kv_heads": 3, "ffn_size": 512}
MODEL = ModelSettings.model_validate({"build": {**SHAPE, "context": 1024}})
ITEM_TOKENS = 2
"""Tokens of an item; with the separator an item takes three of a list's 16."""


@dataclass(frozen=True)
class Work:
    """``prompts`` x ``group`` lists of ``k`` items after prompts of ``prompt_tokens``."""

    prompts: int
    prompt_tokens: int
    group: int
    k: int
    items: int
    vocab: int

    @property
    def limit(self) -> float:
        """By tokens, the most that sharing the prompt can give."""
        lists = self.group * (self.k * (ITEM_TOKENS + 1) + 1)
        return self.group * (self.prompt_tokens + lists / self.group) / (self.prompt_tokens + lists)


def make_sequences(work: Work, seed: int = 0) -> PromptLists:
    """Random prompts, and random legal lists over a random catalog."""
    rng = np.random.default_rng(seed)
    reserved, separator, end = 3, 1, 2
    rows = np.unique(rng.integers(reserved, work.vocab, (work.items, ITEM_TOKENS), dtype=np.int32), axis=0)
    written = np.concatenate([rows, np.full((len(rows), 1), separator, np.int32)], axis=1)
    blocks = Ragged(written.reshape(-1), np.arange(len(rows) + 1) * (ITEM_TOKENS + 1))
    legality = Legality(build_trie(blocks), work.k, end)
    chosen = np.stack([rng.choice(len(rows), work.k, replace=False) for _ in range(work.prompts * work.group)])
    lists = written[chosen].reshape(len(chosen), -1)
    tokens = Ragged.of([np.append(row, end) for row in lists])
    prompt = Ragged.of([rng.integers(reserved, work.vocab, work.prompt_tokens) for _ in range(work.prompts)])
    owner = np.repeat(np.arange(work.prompts), work.group)
    nothing = Ragged(np.zeros(0, np.int32), np.zeros(len(tokens) + 1, np.int64))
    return PromptLists(prompt, tokens, owner, legal_tokens(legality, tokens, nothing))


def make_step(
    sequences: PromptLists, vocab: int, budget: int, shared: bool, model: ModelSettings = MODEL
) -> Callable[[], float]:
    """A function that takes one optimizer step and returns its seconds; every call starts from the last one's model."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:  # a large model's random weights are made there
        policy = Policy(build_model(model, vocab, 0, 2), temperature=1.0)
    if shared and (why := why_not_packed(policy)) is not None:
        raise SystemExit(f"the model can't be packed: {why}")
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        for cut in microbatches(sequences, budget, shared):
            logprob = policy(collate(sequences, cut, pad=0).to(device))
            (-logprob.sum() / len(sequences.tokens.flat)).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return step


def make_heads(rows: int = 1500, items: int = 12_101, width: int = 128) -> dict[str, Callable[[], float]]:
    """Functions that give the seconds of forward and backward of a head over a whole catalog: ours and PyTorch's."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, width, requires_grad=True), torch.randn(items, width, requires_grad=True)
    label = torch.randint(items, (rows,))
    losses = {
        "whole catalog": lambda: -dense_logprobs(hidden, weight, None, label, 1.0).mean(),
        "whole catalog, PyTorch": lambda: functional.cross_entropy(functional.linear(hidden, weight), label),
    }

    def seconds(loss: Callable[[], torch.Tensor]) -> float:
        began = time.perf_counter()
        loss().backward()
        return time.perf_counter() - began

    return {name: partial(seconds, loss) for name, loss in losses.items()}


def fastest(make: Callable[[int], Callable[[], float]], budgets: list[int]) -> tuple[int, Callable[[], float]]:
    """The fastest token budget, by one step after a warm-up each."""
    steps = {budget: make(budget) for budget in budgets}
    seconds = {budget: (step(), step())[1] for budget, step in steps.items()}
    best = min(seconds, key=seconds.__getitem__)
    return best, steps[best]


def turn_about(steps: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of each, measured in turn, so that a busy moment meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(step())
    return {name: statistics.median(values) for name, values in seconds.items()}


def check_equal(sequences: PromptLists, vocab: int) -> float:
    """Largest difference of the log-probs with and without a shared prefix."""
    torch.manual_seed(0)
    policy = Policy(build_model(MODEL, vocab, 0, 2), temperature=1.0)
    why_not_packed(policy)
    one, other = (sequence_logprobs(policy, sequences, 0, 16384, shared) for shared in (True, False))
    return float((one - other).abs().max())


def main(
    prompts: Annotated[int, typer.Option(help="Prompts per step.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens per prompt.")] = 250,
    group: Annotated[int, typer.Option(help="Lists per prompt.")] = 16,
    k: Annotated[int, typer.Option(help="Items per list, of three tokens each.")] = 5,
    vocab: Annotated[int, typer.Option(help="Vocabulary of the first comparison.")] = 2048,
    large_vocab: Annotated[int, typer.Option(help="Vocabulary of the comparison of heads.")] = 32_000,
    items: Annotated[int, typer.Option(help="Items of the catalog.")] = 10_000,
    repeats: Annotated[int, typer.Option(help="Measured turns; the median counts.")] = 5,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Measures what a shared prefix, at each side's own fastest micro-batch, and the learner's heads save.

    Examples:

      python -m benchmarks.learner --json learner.json

      python -m benchmarks.learner --prompt-tokens 500 --group 32
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    work = Work(prompts, prompt_tokens, group, k, items, vocab)
    sequences = make_sequences(work)
    dense = replace(sequences, legal=None)
    budgets = [2048, 4096, 16384]
    chosen = {}
    steps = {}
    for name, shared in (("shared", True), ("unpacked", False)):
        chosen[name], steps[name] = fastest(lambda b, s=shared: make_step(dense, vocab, b, s), budgets)  # type: ignore[misc]
    seconds = turn_about(steps, repeats)
    large = replace(work, vocab=large_vocab)
    large_sequences = make_sequences(large)
    heads = {
        "whole vocabulary": make_step(replace(large_sequences, legal=None), large_vocab, chosen["shared"], True),
        "legal tokens": make_step(large_sequences, large_vocab, chosen["shared"], True),
    }
    for step in heads.values():
        step()
    seconds |= turn_about(heads, repeats)
    whole = make_heads()
    for step in whole.values():
        step()
    seconds |= turn_about(whole, repeats)
    results = {
        "seconds": seconds,
        "tokens_per_microbatch": chosen,
        "shared_prefix_speedup": seconds["unpacked"] / seconds["shared"],
        "shared_prefix_limit": work.limit,
        "legal_head_speedup": seconds["whole vocabulary"] / seconds["legal tokens"],
        "whole_head_speedup": seconds["whole catalog, PyTorch"] / seconds["whole catalog"],
        "logprob_difference": check_equal(sequences, vocab),
        "goals": GOALS,
    }
    show("learner, one optimizer step", results, GOALS)
    write_result(json, "learner", vars(work) | {"large_vocab": large_vocab, **SHAPE}, results)


if __name__ == "__main__":
    typer.run(main)
