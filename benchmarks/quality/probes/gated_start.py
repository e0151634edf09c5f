"""Which target has more of the reward on users that nobody aligned on, where the first list is the ranking?

The policy starts as a ranking (:mod:`benchmarks.quality.probes.writer`), so that alignment does not spend itself on
catching up, and the reward is any that ``reward.weights`` can name. Every target has the same learning rates, steps and
validation prompts to be chosen by: the rate on the first seed, the checkpoint on each. Curves say when lists leave the
range of the reference: the share that is above all M reference lists, the groups that still differ, and their levels.
"""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.quality.probes.alignment import Aligned, Settings, align, evaluate, reference_rewards, rewards_of
from benchmarks.quality.probes.front import reranked_best
from benchmarks.quality.probes.logs import Log, read_log
from benchmarks.quality.probes.writer import Start, Writer, kept_ranker, read_prompts, score
from benchmarks.quality.sasrec import SasRec
from benchmarks.report import show, write_result
from blade_dist.evaluation.bootstrap import Resamples
from blade_dist.rewards.composite import Composite

RESAMPLES = 10_000
DRAWN = 8
"""Lists per test prompt: their mean is what a drawn list has."""
Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Begun:
    """What all targets of a seed share."""

    log: Log
    reward: Composite
    start: dict[str, Start]
    writer: Writer
    reference: NDArray[np.float64]
    seed: int


def begin(
    log: Log, weights: dict[str, float], settings: Settings, seed: int, ranker: SasRec, looked_at: int, candidates: int
) -> Begun:
    """Reads the prompts; validation keeps ``looked_at`` of them at most."""
    few = np.random.default_rng(0).permutation(len(log.prompts["validation"]))[:looked_at]
    log = replace(log, prompts=log.prompts | {"validation": log.prompts["validation"].take(np.sort(few))})
    start = {part: read_prompts(ranker, prompts, candidates) for part, prompts in log.prompts.items()}
    torch.manual_seed(seed)
    writer, reward = Writer(ranker), Composite(weights, log.catalog, settings.k)
    return Begun(
        log, reward, start, writer, reference_rewards(start["train"], writer, reward, log, settings, seed), seed
    )


def aligned(begun: Begun, settings: Settings) -> Aligned:
    """One run."""
    return align(begun.writer, begun.start, begun.reward, begun.log, begun.reference, settings, begun.seed)


def chosen_rate(begun: Begun, settings: Settings, rates: list[float]) -> tuple[float, Aligned, dict[str, float]]:
    """The rate with the best validation reward, its run, and what each rate reached."""
    runs = {rate: aligned(begun, replace(settings, lr=rate)) for rate in rates}
    best = max(rates, key=lambda rate: runs[rate].validation)
    return best, runs[best], {f"{rate:g}": run.validation for rate, run in runs.items()}


def reported(begun: Begun, writers: dict[str, Writer], settings: Settings) -> Values:
    """Test prompts' rewards, and the parts of the greedy lists', by ``decode method`` and ``part, method``."""
    test, values = begun.start["test"], {}
    for name, writer in {"start": begun.writer, **writers}.items():
        values[f"greedy {name}"], parts = evaluate(test, writer, begun.reward, begun.log, settings, 0)
        drawn = rewards_of(test, writer, begun.reward, begun.log, settings, DRAWN)[0]
        values[f"drawn {name}"] = drawn.mean(axis=1)
        if writer is begun.writer:  # a search by the reward itself, where it reads no held-out item
            values[f"best of {DRAWN} of the start"] = drawn.max(axis=1)
        values |= {f"{part}, {name}": by_prompt for part, by_prompt in parts.items()}
    for name, items in reranked_best(begun.start, begun.reward, begun.log, settings.k).items():
        total, parts = score(begun.reward, begun.log, test, items[:, None])
        values[f"greedy {name}"] = total[:, 0]
        values |= {f"{part}, {name}": by_list[:, 0] for part, by_list in parts.items()}
    return values


def intervals(users: NDArray, by_seed: list[Values], names: list[str]) -> dict[str, Any]:
    """Means over seeds and users, differences to static and to the start, and the gain over static as a share of it."""
    pooled = {
        key: np.concatenate([values[key] for values in by_seed]) for key in by_seed[0] if _everywhere(key, by_seed)
    }
    resamples = Resamples(np.tile(users, len(by_seed)), RESAMPLES, seed=0)
    less = {
        f"{decode} {name} minus {other}": pooled[f"{decode} {name}"] - pooled[f"{decode} {other}"]
        for decode in ("greedy", "drawn")
        for name in names
        for other in ("start", "static", "grpo")
        if other != name and other in ("start", *names)
    }
    ratios = {
        f"{decode} blade": resamples.ratio(pooled[f"{decode} blade"], pooled[f"{decode} static"]).as_dict()
        for decode in ("greedy", "drawn")
        if {"blade", "static"} <= set(names)
    }
    return {
        "means": {name: interval.as_dict() for name, interval in resamples.each_mean(pooled).items()},
        "differences": {name: interval.as_dict() for name, interval in resamples.each_mean(less).items()},
        "relative_to_static": ratios,
        "by_seed": [{name: float(values.mean()) for name, values in of.items() if "," not in name} for of in by_seed],
    }


def _everywhere(key: str, by_seed: list[Values]) -> bool:
    return all(key in values for values in by_seed)


def main(
    path: Annotated[Path, typer.Argument(help="A MovieLens folder, or one with log.parquet and items.parquet.")],
    weights: Annotated[
        str, typer.Option(help="The reward, as reward.weights.")
    ] = '{"expected_ndcg@10": 1, "ild@10": 1}',
    targets: Annotated[str, typer.Option(help="What to align to, with commas.")] = "static,blade,grpo",
    rates: Annotated[str, typer.Option(help="Learning rates to choose from, with commas.")] = "2e-3,5e-3",
    steps: Annotated[int, typer.Option(help="Of each run.")] = 400,
    looks: Annotated[int, typer.Option(help="At validation prompts, in a run.")] = 5,
    prompts: Annotated[int, typer.Option(help="Of a step, 16 lists each.")] = 16,
    references: Annotated[int, typer.Option(help="M, reference lists per prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of samples and reference.")] = 1.0,
    tau: Annotated[float, typer.Option(help="BLADE's evidence, its share of the belief.")] = 0.3,
    bon_n: Annotated[int, typer.Option(help="N: the KL weighs 1 / (N - 1).")] = 64,
    scale: Annotated[str, typer.Option(help="advantage.scale: std or none.")] = "std",
    candidates: Annotated[int, typer.Option(help="The ranker's best items, which lists are written from.")] = 50,
    held: Annotated[int, typer.Option(help="Held-out items of a prompt.")] = 1,
    windows: Annotated[int, typer.Option(help="Prompts of a user at most.")] = 1,
    epochs: Annotated[int, typer.Option(help="Of the ranker.")] = 12,
    looked_at: Annotated[int, typer.Option(help="Validation prompts.")] = 400,
    seeds: Annotated[int, typer.Option(min=1, help="Of ranker and alignment; rates are chosen on the first.")] = 3,
    keep: Annotated[Path | None, typer.Option(help="Folder of fitted rankers: one that is there is taken.")] = None,
    json: Annotated[Path | None, typer.Option(help="The result file, written after every seed.")] = None,
) -> None:
    """Aligns to every target, and compares them on test users.

    Examples:

      python -m benchmarks.quality.probes.gated_start amazon-scientific --json probe-scientific.json
    """
    torch.set_num_threads(1)
    log, names, tried = read_log(path, held, windows), targets.split(","), [float(rate) for rate in rates.split(",")]
    settings = Settings("static", 0.0, steps, max(1, steps // looks), temperature=temperature, references=references)
    settings = replace(settings, tau=tau, bon_n=bon_n, scale="none" if scale == "none" else "std")
    settings = replace(settings, prompts_per_step=prompts)
    about = asdict(settings) | {"log": path.name, "weights": jsonlib.loads(weights), "held": held, "windows": windows}
    about |= {"rates": tried, "seeds": seeds, "epochs": epochs, "looked_at": looked_at, "candidates": candidates}
    about = {name: value for name, value in about.items() if name not in ("target", "lr")}
    of_rate: dict[str, Any] = {}
    curves: dict[str, list[Any]] = {name: [] for name in names}
    by_seed: list[Values] = []
    for seed in range(seeds):
        ranker = kept_ranker(
            log, settings.k, seed, epochs, keep and keep / f"{path.name}-{held}-{windows}-{epochs}-{seed}.pt"
        )
        begun = begin(log, jsonlib.loads(weights), settings, seed, ranker, looked_at, candidates)
        writers: dict[str, Writer] = {}
        for name in names:
            if seed == 0:
                rate, run, reached = chosen_rate(begun, replace(settings, target=name), tried)
                of_rate[name] = {"rate": rate, "validation": reached}
            else:
                run = aligned(begun, replace(settings, target=name, lr=of_rate[name]["rate"]))
            curves[name].append({"best_step": run.step, "rows": run.curve})
            writers[name] = run.writer
            show(f"{name}, seed {seed}, rate {of_rate[name]['rate']:g}, best at step {run.step}", run.curve[-1])
        by_seed.append(reported(begun, writers, settings))
        found = intervals(log.prompts["test"].user, by_seed, names)
        sizes = {part: len(asked) for part, asked in log.prompts.items()}
        users = {part: len(set(asked.user)) for part, asked in log.prompts.items()}
        results = {"prompts": sizes, "users": users, "rates": of_rate, **found, "curves": curves}
        write_result(json, "probe gated_start", about | {"seeds": seed + 1}, results)
    show("test users", {name: of["mean"] for name, of in found["means"].items() if "," not in name})
    show("differences", found["differences"])
    show("BLADE over static, relative", found["relative_to_static"])


if __name__ == "__main__":
    typer.run(main)
