"""One alignment of a writer to one target, with what is recorded on the way. On one device, each batch used once."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.quality.probes.logs import Log
from benchmarks.quality.probes.writer import Start, Writer, score
from blade_dist.posterior.advantage import Scale, informative
from blade_dist.posterior.beta import BetaSettings, Ties
from blade_dist.posterior.targets import TARGETS
from blade_dist.posterior.targets.target import Groups
from blade_dist.rewards.composite import Composite

CLIP = 1.0
WARM_UP = 10
"""Steps over which the learning rate rises; it falls to a tenth over the second half."""


@dataclass(frozen=True)
class Settings:
    """As the trainer's settings of the same names."""

    target: str
    lr: float
    steps: int
    every: int
    """Steps between two looks at validation prompts."""
    k: int = 10
    temperature: float = 1.0
    prompts_per_step: int = 32
    group_size: int = 16
    references: int = 8
    """M, ``prior.size``."""
    tau: float = 0.3
    bon_n: int = 16
    scale: Scale = "std"
    ties: Ties = "le"


@dataclass(frozen=True)
class Aligned:
    """The writer at its best look, by the greedy list's reward of the validation prompts."""

    writer: Writer
    validation: float
    step: int
    curve: list[dict[str, float]]
    """A row for each look."""


def reference_rewards(
    start: Start, writer: Writer, reward: Composite, log: Log, settings: Settings, seed: int
) -> NDArray[np.float64]:
    """``[P, M]`` of the writer that nothing has been aligned yet."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return np.concatenate(
            [
                score(
                    reward, log, part, writer.write(part, settings.references, settings.k, settings.temperature).items
                )[0]
                for part in start.chunks()
            ]
        )


def rewards_of(
    start: Start, writer: Writer, reward: Composite, log: Log, settings: Settings, group: int
) -> tuple[NDArray, dict[str, NDArray]]:
    """Rewards of ``group`` drawn lists of each prompt, or of its greedy list where that is 0, and their parts.

    ``[P, G]`` each; the lists are drawn alike whatever was drawn before.
    """
    totals, parts = [], defaultdict(list)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in start.chunks():
            written = writer.write(part, group, settings.k, settings.temperature)
            total, by_name = score(reward, log, part, written.items)
            totals.append(total)
            for name, values in by_name.items():
                parts[name].append(values)
    return np.concatenate(totals), {name: np.concatenate(values) for name, values in parts.items()}


def evaluate(
    start: Start, writer: Writer, reward: Composite, log: Log, settings: Settings, group: int
) -> tuple[NDArray, dict[str, NDArray]]:
    """Means of :func:`rewards_of` over each prompt's lists: ``[P]``."""
    total, parts = rewards_of(start, writer, reward, log, settings, group)
    return total.mean(axis=1), {name: values.mean(axis=1) for name, values in parts.items()}


def align(
    first: Writer,
    start: dict[str, Start],
    reward: Composite,
    log: Log,
    reference: NDArray,
    settings: Settings,
    seed: int,
) -> Aligned:
    """Trains a copy of ``first`` on the training prompts.

    Args:
        first: the policy that all targets begin with, and the reference.
        start: the prompts' readings, by part.
        reward: what is optimised.
        log: the items.
        reference: ``[P, M]`` rewards of the training prompts' reference lists.
        settings: of this run.
        seed: of prompts' order and samples.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    writer, train = copy.deepcopy(first), start["train"]
    optimizer = torch.optim.AdamW(writer.parameters(), settings.lr, weight_decay=0.0)
    belief = BetaSettings(settings.tau, float(settings.references), ties=settings.ties, bon_n=settings.bon_n)
    target, order = TARGETS[settings.target], np.zeros(0, np.int64)
    seen: dict[str, list[float]] = defaultdict(list)
    curve: list[dict[str, float]] = []
    best: tuple[float, int, Any] = (-np.inf, 0, None)
    for step in range(settings.steps + 1):
        if step % settings.every == 0 or step == settings.steps:
            row = _look(start["validation"], writer, reward, log, settings)
            curve.append({"step": step} | row | {name: float(np.mean(values)) for name, values in seen.items()})
            seen.clear()
            if row["validation_greedy"] > best[0]:
                best = (row["validation_greedy"], step, copy.deepcopy(writer.state_dict()))
        if step == settings.steps:
            break
        if len(order) < settings.prompts_per_step:
            order = np.concatenate([order, rng.permutation(len(train))])
        rows, order = np.split(order, [settings.prompts_per_step])
        part = train.take(rows)
        written = writer.write(part, settings.group_size, settings.k, settings.temperature)
        rewards, _ = score(reward, log, part, written.items)
        proxy = target.proxy(Groups(rewards, reference[rows], belief))
        advantage = torch.from_numpy(target.advantage(proxy, settings.scale))[:, :, None]
        gap = (written.reference - written.logprobs).clamp(-20, 20)
        kl = (gap.exp() - gap - 1).mean()
        loss = kl / (settings.bon_n - 1) - (advantage * written.logprobs).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(writer.parameters(), CLIP)
        optimizer.param_groups[0]["lr"] = settings.lr * _share_of_rate(step, settings.steps)
        optimizer.step()
        for name, value in _numbers(rewards, reference[rows], proxy).items():
            seen[name].append(value)
        seen["kl"].append(float(kl.detach()))
    writer.load_state_dict(best[2])
    return Aligned(writer, best[0], best[1], curve)


def _share_of_rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.1, 2 - 2 * step / steps))


def _look(start: Start, writer: Writer, reward: Composite, log: Log, settings: Settings) -> dict[str, float]:
    """Greedy and drawn lists of fresh prompts."""
    greedy, parts = evaluate(start, writer, reward, log, settings, 0)
    drawn, _ = evaluate(start, writer, reward, log, settings, 4)
    named = {f"greedy {name}": float(values.mean()) for name, values in parts.items()}
    return {"validation_greedy": float(greedy.mean()), "validation_drawn": float(drawn.mean())} | named


def _numbers(rewards: NDArray, reference: NDArray, proxy: NDArray) -> dict[str, float]:
    """What a step says of its groups."""
    return {
        "reward": float(rewards.mean()),
        "above": float((rewards > reference.max(axis=1, keepdims=True)).mean()),
        "informative": float(informative(proxy).mean()),
        "levels": float(np.mean([len(np.unique(group.round(9))) for group in proxy])),
    }
