"""The catalog of the day: how long ``blade-dist catalog`` takes where many items are new, and what it needs.

The export is of a generated log and of random weights: what is measured does not depend on what a model has learned.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from benchmarks.report import show, write_result
from blade_dist.catalog.catalog import Catalog
from blade_dist.data.bundle import load_data
from blade_dist.data.prepare import prepare_data
from blade_dist.learners.policy import build_model
from blade_dist.serving.export import write_export
from blade_dist.serving.opened import open_export
from blade_dist.settings import Config
from blade_dist.store.policy import read_policy, save_policy
from blade_dist.store.run import RunPaths

KINDS: dict[str, dict[str, Any]] = {
    "one token": {"kind": "semantic_id", "levels": 1},
    "codes": {"kind": "semantic_id", "levels": 3},
    "title": {"kind": "title"},
}
"""Settings of the codec, by how an item is written."""
GOALS = {"seconds": 10}
LOOK_S = 0.01
"""Seconds between two looks at a command's memory."""


def main(
    items: Annotated[int, typer.Option(min=100, help="Items that the policy was trained with.")] = 10_000,
    new: Annotated[int, typer.Option(min=2, help="Items that have come since.")] = 100_000,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is done; the median counts.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Where the result is written.")] = None,
) -> None:
    """Runs the command as a user does, and prints seconds and memory for each way of writing items.

    ``ratio_vs_one_item`` is against the same command with one new item: most of that is the start of the program.

    Examples:

      python -m benchmarks.catalog --json catalog.json

      python -m benchmarks.catalog --items 1000 --new 2000 --repeats 1
    """
    results = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            results[kind] = measure(Path(name), kind, items, new, repeats)
        show(kind, results[kind], GOALS)
    settings = {"items": items, "new": new, "repeats": repeats, "codec": KINDS}
    slowest = max(found["seconds"] for found in results.values())
    write_result(json, "catalog", settings, {"by_kind": results, "seconds": slowest, "goals": GOALS})


def measure(folder: Path, kind: str, items: int, new: int, repeats: int) -> dict[str, float]:
    """Seconds and memory of the command with so many new items, and beside it with one; they take turns."""
    served = make_export(_settings(folder / "run", kind, items, new), folder)
    catalog = open_export(served).catalog
    tables = {count: write_day(catalog, count, folder / f"{count}.parquet") for count in (1, new)}
    runs: dict[int, list[tuple[float, float]]] = {count: [] for count in tables}
    for _ in range(repeats):
        for count, table in tables.items():
            command = [sys.executable, "-m", "blade_dist", "catalog", "--quiet", str(served), "--items", str(table)]
            command += ["--out", str(folder / "renewed"), "--set", "data.columns.groups=groups"]
            runs[count].append(timed(command))
    if (made := len(open_export(folder / "renewed").catalog)) != len(catalog) + new:
        raise RuntimeError(f"{folder / 'renewed'} has {made} items instead of {len(catalog) + new}")
    one, many = (float(np.median([seconds for seconds, _ in of])) for of in runs.values())
    return {
        "items": made,
        "seconds": many,
        "one_item_seconds": one,
        "ratio_vs_one_item": many / one,
        "peak_memory_mb": max(memory for _, memory in runs[new]),
    }


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident MiB of a command, from its start to its end."""
    # the peak that the kernel keeps of a child has what its parent had, too
    began, peak = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, process.memory_info().rss)
        time.sleep(LOOK_S)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return time.perf_counter() - began, peak / 2**20


def make_export(config: Config, folder: Path) -> Path:
    """The export of a run with random weights, without Ray."""
    prepare_data(config)
    data, paths = load_data(config.run.dir), RunPaths(config.run.dir)
    torch.manual_seed(config.run.seed)
    model, codec = build_model(config.model, data.codec.vocabulary, data.codec.pad, data.codec.end), data.codec
    weights, stamp = model.state_dict(), codec.fingerprint()
    save_policy(paths.reference, model, weights, codec.tokenizer, codec=stamp, policy="sft", step=0)
    histories, out = data.test.rows(np.arange(min(1000, len(data.test)))).history, folder / "served"
    policy = read_policy(paths.reference, stamp)
    write_export(out, config, paths.reference, policy, data.catalog, codec, paths.trie, "# Card\n", [], histories)
    return out


def write_day(catalog: Catalog, new: int, path: Path) -> Path:
    """The items that there were, and new ones: each has the first words of one title and the last of another, a word
    that no title has, and the groups of the first."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(len(catalog), size=(2, new))
    words = [title.split() for title in catalog.titles]
    titles = [
        " ".join([*words[a][:2], *words[b][2:], f"edition{number}"])
        for number, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    groups = ["|".join(catalog.group_names[group] for group in catalog.groups[item]) for item in range(len(catalog))]
    table = {
        "item": [*catalog.item_ids, *(f"new{number}" for number in range(new))],
        "title": [*catalog.titles, *titles],
        "groups": [*groups, *(groups[item] for item in first)],
    }
    pq.write_table(pa.table(table), path)
    return path


def _settings(run: Path, kind: str, items: int, new: int) -> Config:
    """Of a run whose codes, where there are several to an item, have room for the new items too."""
    log = {"users": max(500, items // 5), "items": items, "groups": 20, "interactions": 40}
    build = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_size": 192, "context": 1024, "tied": False}
    room = {"codes": math.ceil((2 * (items + new)) ** (1 / 3))} if kind == "codes" else {}
    tree: dict[str, Any] = {
        "run": {"dir": str(run)},
        "data": {"source": "synthetic", "synthetic": log, "k_core": 1, "windows": 1},
        "codec": KINDS[kind] | room,
        "model": {"build": build},
    }
    return Config.model_validate(tree)


if __name__ == "__main__":
    typer.run(main)
