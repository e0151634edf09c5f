"""What do re-rankers of the same ranker's candidates reach, with no training?

They are the company of an aligned list: MMR, DPP and expected utility over the 100 best items, their trade-off swept.
The weight with the most reward is chosen on validation users and reported on test users, beside the whole front.
"""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.quality.probes.logs import Log, read_log
from benchmarks.quality.probes.writer import Start, fit_ranker, read_prompts, score
from benchmarks.report import show, write_result
from blade_dist.evaluation.bootstrap import Resamples
from blade_dist.evaluation.rerank import reranked_lists
from blade_dist.rewards.composite import Composite
from blade_dist.settings import Reranker

TRADE_OFFS: dict[Reranker, list[float]] = {
    "mmr": [0.1, 0.2, 0.3, 0.5, 0.7, 0.9],
    "dpp": [0.01, 0.1, 0.3, 0.5, 0.9],
    "utility": [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8],
}
RESAMPLES = 10_000
Lists = dict[tuple[Reranker, float], NDArray[np.int32]]


def reranked(start: Start, log: Log, k: int, trade_offs: dict[Reranker, list[float]] = TRADE_OFFS) -> Lists:
    """``[P, K]`` lists of every re-ranker and weight."""
    return reranked_lists(log.catalog, start.ranked, start.prompts.history, k, trade_offs)


def reranked_best(start: dict[str, Start], reward: Composite, log: Log, k: int) -> dict[str, NDArray[np.int32]]:
    """Test lists of each re-ranker, with the weight that has the most reward on validation prompts."""
    known = reranked(start["validation"], log, k)
    means = {key: score(reward, log, start["validation"], items[:, None])[0].mean() for key, items in known.items()}
    best = {
        name: max(weights, key=lambda weight, name=name: means[name, weight]) for name, weights in TRADE_OFFS.items()
    }
    lists = reranked(start["test"], log, k, {name: [weight] for name, weight in best.items()})
    return {f"{name}": items for (name, _), items in lists.items()}


def main(
    path: Annotated[Path, typer.Argument(help="A MovieLens folder, or one with log.parquet and items.parquet.")],
    weights: Annotated[str, typer.Option(help="The reward, as reward.weights.")] = '{"ndcg@10": 1, "ild@10": 0.1}',
    held: Annotated[int, typer.Option(help="Held-out items of a prompt.")] = 1,
    windows: Annotated[int, typer.Option(help="Prompts of a user at most.")] = 2,
    epochs: Annotated[int, typer.Option(help="Of the ranker.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the ranker.")] = 0,
    k: Annotated[int, typer.Option(help="Items of a list.")] = 10,
    json: Annotated[Path | None, typer.Option(help="The result file.")] = None,
) -> None:
    """Re-ranks the test prompts' candidates.

    Examples:

      python -m benchmarks.quality.probes.front amazon-beauty --json probe-front.json
    """
    torch.set_num_threads(1)
    log = read_log(path, held, windows)
    test = read_prompts(fit_ranker(log, k, seed, epochs), log.prompts["test"], candidates=100)
    reward = Composite(jsonlib.loads(weights), log.catalog, k)
    shown = Composite({f"{name}@{k}": 1.0 for name in ("ndcg", "hr", "ild", "expected_ndcg")}, log.catalog, k)
    lists = {"rank": test.ranked.items[:, :k]} | {
        f"{name} {w:g}": of for (name, w), of in reranked(test, log, k).items()
    }
    resamples = Resamples(log.prompts["test"].user, RESAMPLES, seed=0)
    rows: dict[str, Any] = {}
    for name, items in lists.items():
        parts = {"reward": score(reward, log, test, items[:, None])[0]} | score(shown, log, test, items[:, None])[1]
        means = resamples.each_mean({part: values[:, 0] for part, values in parts.items()})
        rows[name] = {part: interval.as_dict() for part, interval in means.items()}
    show("reward", {name: row["reward"]["mean"] for name, row in rows.items()})
    settings = {"log": path.name, "weights": jsonlib.loads(weights), "held": held, "windows": windows, "epochs": epochs}
    write_result(
        json, "probe front", settings | {"seed": seed, "k": k}, {"users": len(set(test.prompts.user)), "rows": rows}
    )


if __name__ == "__main__":
    typer.run(main)
