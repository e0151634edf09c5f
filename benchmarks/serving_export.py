"""What is served: an export of a model that was fine-tuned on a generated log, and the users that it has not seen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from blade_dist.batches import MISS, Prompts
from blade_dist.catalog.catalog import Catalog
from blade_dist.cluster.runtime import ray_runtime
from blade_dist.data.bundle import load_data
from blade_dist.learners.policy import build_model
from blade_dist.rewards.lists import Lists
from blade_dist.rewards.metrics import hr, ndcg
from blade_dist.settings import Config
from blade_dist.stages.data import data_stage
from blade_dist.stages.export import export_stage
from blade_dist.stages.sft import sft_stage
from blade_dist.store.policy import save_policy
from blade_dist.store.run import RunPaths

K = 10
HISTORY = 20
RUN, EXPORT = "run", "export"
NDCG = f"ndcg@{K}"
LISTS = "lists"
"""Key of a way's lists, catalog indices by the prompt's row."""
Answers = Iterable[tuple[int, list[dict[str, Any]]]]
"""Number of the request, and the lists that came."""


def make_export(folder: Path, items: int, levels: int, epochs: float) -> Path:
    """The export in ``folder``; beside it the run that it is of."""
    config = _settings(folder / RUN, items, levels, epochs)
    console, paths = Console(), RunPaths(config.run.dir)
    with ray_runtime(config):
        data_stage(config, console)
        if epochs:
            sft_stage(config, console)
    if not epochs:
        _random_weights(config, paths)
    export_stage(config, paths.reference, folder / EXPORT, console)
    return folder / EXPORT


def _settings(run: Path, items: int, levels: int, epochs: float) -> Config:
    log = {"users": max(2000, items // 25), "items": items, "groups": 20, "interactions": 60}
    build = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_size": 192, "context": 160}
    tree: dict[str, Any] = {
        "run": {"dir": str(run)},
        "data": {"source": "synthetic", "synthetic": log, "k_core": 1, "max_history": HISTORY, "windows": 2},
        "codec": {"kind": "semantic_id", "levels": levels},
        "lists": {"k": K},
        "model": {"build": build},
        "sft": {"epochs": max(1, round(epochs)), "batch_size": 128},
        "reward": {"weights": {f"ndcg@{K}": 1.0}},
        "learner": {"cpus_per_worker": 2},
        "tracking": {"tensorboard": False},
    }
    return Config.model_validate(tree)


def _random_weights(config: Config, paths: RunPaths) -> None:
    codec = load_data(config.run.dir).codec
    torch.manual_seed(0)
    model = build_model(config.model, codec.vocabulary, codec.pad, codec.end)
    weights = model.state_dict()
    save_policy(paths.reference, model, weights, codec.tokenizer, codec=codec.fingerprint(), policy="sft", step=0)


def in_own_process(module: str, export: Path, *arguments: object) -> dict[str, Any]:
    """The JSON that ``python -m MODULE EXPORT JSON ARGUMENTS`` writes about the export."""
    out = export.parent / f"{module}.json"
    subprocess.run([sys.executable, "-m", module, str(export), str(out), *map(str, arguments)], check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@dataclass(frozen=True)
class HeldOut:
    """Test prompts, which requests are made of."""

    catalog: Catalog
    prompts: Prompts

    @cached_property
    def histories(self) -> list[list[str]]:
        """Item ids."""
        of = self.prompts.history
        return [self.catalog.item_ids[of[row]].tolist() for row in range(len(of))]

    @cached_property
    def index(self) -> dict[str, int]:
        """Catalog index of each item id."""
        return {item: number for number, item in enumerate(self.catalog.item_ids.tolist())}

    def bodies(self, requests: int, how: dict[str, Any]) -> list[dict[str, Any]]:
        """One list each, for one prompt after another, again from the first after the last."""
        return [{"history": self.histories[number % len(self.histories)], **how} for number in range(requests)]

    def searches(self, requests: int, samples: int) -> list[list[dict[str, Any]]]:
        """Bodies that ask for so many drawn lists of a prompt each."""
        drawn = [{"decode": "sample", "seed": seed} for seed in range(samples)]
        return [[body | how for how in drawn] for body in self.bodies(requests, {})]

    def illegal(self, answers: Answers, k: int = K) -> int:
        """Lists that are not ``k`` different items of the catalog, none of which the user has had."""
        return sum(
            len(items := [item["id"] for item in answer["items"]]) != k
            or len(set(items)) != k
            or not self.index.keys() >= set(items)
            or not set(self.histories[number % len(self.histories)]).isdisjoint(items)
            for number, lists in answers
            for answer in lists
        )

    def accuracy(self, answers: Answers) -> dict[str, float]:
        """HR and NDCG of the answers."""
        return self.accuracy_of(self.items_of(answers))

    def items_of(self, answers: Answers) -> dict[int, list[int]]:
        """Catalog indices by the prompt's row; of several lists of a request, the one that is likeliest."""
        chosen = {number % len(self.histories): _likeliest(lists) for number, lists in answers}
        return {row: [self.index[item["id"]] for item in answer["items"]] for row, answer in chosen.items()}

    def accuracy_of(self, items: dict[int, list[int]]) -> dict[str, float]:
        """As :meth:`accuracy`, of what :meth:`items_of` gives."""
        return {f"hr@{K}": float(hr(self._lists(items), K).mean()), NDCG: float(self.ndcg_of(items).mean())}

    def ndcg_of(self, items: dict[int, list[int]]) -> NDArray[np.floating]:
        """Of each prompt, in the order of their rows."""
        return ndcg(self._lists(items), K)

    def _lists(self, items: dict[int, list[int]]) -> Lists:
        rows = np.array(sorted(items))
        table = np.full((len(rows), K), MISS, dtype=np.int32)
        for line, row in zip(table, rows, strict=True):
            line[: len(items[row])] = items[row][:K]
        part = self.prompts.take(rows)
        return Lists(table, part.targets, part.history, self.catalog)


def _likeliest(lists: list[dict[str, Any]]) -> dict[str, Any]:
    return max(lists, key=lambda answer: sum(item["logprob"] for item in answer["items"]))


def held_out(folder: Path) -> HeldOut:
    """The users of the export that :func:`make_export` made in ``folder``."""
    data = load_data(folder / RUN)
    return HeldOut(data.catalog, data.test.rows(np.arange(len(data.test))))
