"""Exports of small runs, made without Ray, and the items of a day."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from blade_dist.catalog.catalog import Catalog
from blade_dist.data.bundle import load_data
from blade_dist.data.prepare import prepare_data
from blade_dist.serving.export import write_export
from blade_dist.settings import ColumnSettings, DataSettings
from blade_dist.settings.load import load_config
from blade_dist.stages.catalog import catalog_stage
from blade_dist.store.policy import read_policy
from blade_dist.store.run import RunPaths
from tests.helpers.runs import random_policy

ITEMS = 40
GROUPED = DataSettings(columns=ColumnSettings(groups="groups"))
KINDS = {
    "title": ["codec.kind=title"],
    "one": ["codec.kind=semantic_id", "codec.levels=1"],
    "two": ["codec.kind=semantic_id", "codec.levels=2", "codec.codes=8"],
}


def small_export(folder: Path, kind: str, *more: str) -> Path:
    """Of 40 items and a model with random weights, whose head is no embedding."""
    config = load_config(
        None,
        [
            f"run.dir={folder / 'run'}",
            f"data.synthetic={{users: 120, items: {ITEMS}, groups: 4, interactions: 24}}",
            *("data.k_core=2", "data.max_history=8", "data.targets=3", "data.windows=3", "lists.k=3"),
            "model.build={hidden_size: 64, layers: 1, heads: 2, kv_heads: 1, ffn_size: 64, context: 160}",
            *KINDS[kind],
            *more,
        ],
    )
    prepare_data(config)
    data, paths = load_data(config.run.dir), RunPaths(config.run.dir)
    checkpoint = random_policy(config, data, folder / "policy", tied=False)
    stamp = read_policy(checkpoint, data.codec.fingerprint())
    histories = data.test.rows(np.arange(20)).history
    out = folder / "served"
    write_export(out, config, checkpoint, stamp, data.catalog, data.codec, paths.trie, "# Card\n", [], histories)
    return out


def rows_of(catalog: Catalog, items: range) -> list[dict[str, str]]:
    """As a table of the day has them."""
    return [
        {
            "item": catalog.item_ids[item],
            "title": catalog.titles[item],
            "groups": "|".join(catalog.group_names[group] for group in catalog.groups[item]),
        }
        for item in items
    ]


def write_items(rows: list[dict[str, str]], path: Path) -> Path:
    """The table of a day."""
    names = rows[0] if rows else ("item", "title", "groups")
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in names])), path)
    return path


def renew(served: Path, rows: list[dict[str, str]], out: Path) -> str:
    """Writes the export with the items of a day; what the command says."""
    console = Console(file=io.StringIO(), record=True, width=400)
    catalog_stage(served, write_items(rows, out.with_suffix(".parquet")), out, GROUPED, console)
    return console.export_text()
