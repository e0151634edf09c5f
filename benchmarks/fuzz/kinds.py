"""What reads hostile input: for each kind, how one is made from something good, and what is done with it."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.fuzz.mutations import spoil
from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import load_trie
from blade_dist.data.prepare import prepare_data
from blade_dist.errors import UserError
from blade_dist.posterior.prior import Prior, PriorWriter
from blade_dist.rewards.composite import Composite
from blade_dist.rewards.lists import Lists
from blade_dist.settings import Config
from blade_dist.settings.load import dump_config, load_config
from blade_dist.store.checkpoints import NUMBERS, PROGRESS, bytes_of, checkpoint_folder, saved_step, take_whole
from blade_dist.store.files import write_json
from blade_dist.store.run import RunPaths
from blade_dist.store.whole import files_below, sums, write_manifest

USERS, ITEMS, EACH, STAMP = 16, 14, 9, {"the reference": "r"}
LOGS = ("log.csv", "log.tsv", "log.jsonl", "log.parquet", "log.csv.gz")
TABLES = ("items.csv", "items.jsonl", "items.parquet")
Make = Callable[[Path, Path, Random], str]
"""From the good ones' folder, into an empty one; says how it was made."""


@dataclass(frozen=True)
class Kind:
    """One that reads."""

    make: Make
    use: Callable[[Path], object]
    """Reads what was made."""


def prepare(good: Path) -> None:
    """Makes one good input of each kind in the empty folder."""
    draw = Random(0)
    rows = [
        (f"u{u}", f"i{i}", 1_600_000_000 + 100 * u + n)
        for u in range(USERS)
        for n, i in enumerate(draw.sample(range(ITEMS), EACH))
    ]
    table = pa.table(dict(zip(("user", "item", "time"), map(list, zip(*rows, strict=True)), strict=True)))
    pa.csv.write_csv(table, good / "log.csv")
    pq.write_table(table, good / "log.parquet")
    (good / "log.tsv").write_bytes((good / "log.csv").read_bytes().replace(b",", b"\t"))
    (good / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    (good / "log.csv.gz").write_bytes(gzip.compress((good / "log.csv").read_bytes(), mtime=0))
    items = [{"item": f"i{i}", "title": f"Title {i}", "genre": "ab"[i % 2]} for i in range(ITEMS)]
    pa.csv.write_csv(pa.Table.from_pylist(items), good / "items.csv")
    pq.write_table(pa.Table.from_pylist(items), good / "items.parquet")
    (good / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    prepare_data(_config(good, "log.csv", "items.csv"))
    (good / "settings.yaml").write_text(dump_config(load_config(None)))
    writer = PriorWriter(good / "prior.arrow", STAMP)
    writer.add(np.arange(20), np.random.default_rng(0).random((20, 4)), {"ild@3": np.zeros((20, 4))})
    writer.finish()
    for step in (1, 2):
        folder = checkpoint_folder(good / "learners", step)
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(2000))
        write_json(folder / NUMBERS, {"step": step})
        write_json(folder / PROGRESS, {"layout": {"ranks": 1, "zero_stage": 0}, "step": step})
        write_manifest(folder, sums(folder, files_below(folder)))


def _config(folder: Path, log: str, items: str, run: str = "run") -> Config:
    return load_config(
        None,
        [
            *(f"run.dir={folder / run}", f"data.path={folder / log}", f"data.items={folder / items}"),
            *("data.source=table", "data.k_core=2", "data.targets=2", "data.columns.groups=genre", "lists.k=2"),
            *("codec.kind=semantic_id", "codec.levels=1"),
        ],
    )


def _only(*names: str, beside: str | None = None) -> Make:
    """One of the files, spoiled; ``beside``: a good one."""

    def make(good: Path, bad: Path, draw: Random) -> str:
        if beside is not None:
            shutil.copyfile(good / beside, bad / beside)
        name = draw.choice(names)
        content, how = spoil((good / name).read_bytes(), draw, text=not name.endswith((".parquet", ".gz", ".arrow")))
        (bad / name).write_bytes(content)
        return f"{name}: {how}"

    return make


def _read_log(bad: Path) -> None:
    """The whole data stage, which leaves its folder or nothing."""
    log, items = (next(path.name for path in sorted(bad.glob(f"{name}.*"))) for name in ("log", "items"))
    try:
        prepare_data(_config(bad, log, items))
    except UserError:
        left = [path.name for path in bad.glob("run/*")]
        if left:
            raise AssertionError(f"the data stage left {left} behind") from None
        raise


def _below(folder: str, *names: str) -> Make:
    """A file below this folder of prepared data, spoiled: one of these, or any."""

    def make(good: Path, bad: Path, draw: Random) -> str:
        data = RunPaths(good / "run").data
        for other in ("codec", "trie", "catalog"):
            shutil.copytree(data / other, bad / other)
        found = sorted(path for path in (data / folder).iterdir() if not names or path.name in names)
        path = draw.choice(found)
        content, how = spoil(path.read_bytes(), draw, text=path.suffix == ".json")
        (bad / folder / path.name).write_bytes(content)
        return f"{folder}/{path.name}: {how}"

    return make


def _read_catalog(bad: Path) -> None:
    catalog = Catalog.load(bad / "catalog")
    catalog.group_matrix()
    catalog.fingerprint()


def _read_codec(bad: Path) -> None:
    codec = Codec.load(bad / "codec")
    items = len(codec.item_tokens)
    codec.encode_prompts(Ragged.of([[0, items - 1]]))
    codec.parse(Ragged.of([codec.item_tokens[0]]), 2)


def _read_trie(bad: Path) -> None:
    codec = Codec.load(bad / "codec")
    load_trie(codec, bad / "trie")


def _read_prior(bad: Path) -> None:
    prior = Prior.load(bad / "prior.arrow", STAMP)
    prior.where(np.array([3, 7]))
    assert prior.pool is None or len(prior.pool) >= 0


def _checkpoint(good: Path, bad: Path, draw: Random) -> str:
    shutil.copytree(good / "learners", bad / "learners")
    folder = draw.choice(sorted((bad / "learners").iterdir()))
    path = draw.choice(sorted(folder.iterdir()))
    if draw.random() < 0.1:
        path.unlink()
        return f"{path.name} is missing"
    content, how = spoil(path.read_bytes(), draw, text=path.suffix == ".json")
    path.write_bytes(content)
    return f"{path.name}: {how}"


def _read_checkpoints(bad: Path) -> None:
    parent = bad / "learners"
    saved_step(parent)
    [bytes_of(folder) for folder in parent.iterdir()]
    whole, lines = take_whole(parent)
    assert len(whole) + len(lines) == 2, (whole, lines)


def _reward(good: Path, bad: Path, draw: Random) -> str:
    del good
    seed = draw.randrange(2**32)
    (bad / "seed").write_text(str(seed))
    return f"a reward's answer by seed {seed}"


def _answer(draw: Random, lists: int) -> Any:
    number = draw.choice(
        [0.0, 1, -3, 1e308, 1e-320, np.nan, np.inf, None, "1", "x", 2**80, 1j, True, b"1", {}, object()]
    )
    shapes: list[Callable[[], Any]] = [
        lambda: number,
        lambda: [number] * lists,
        lambda: [0.5] * (lists - 1) + [number],
        lambda: [[number]] * lists,
        lambda: [number] * draw.randrange(5),
        lambda: np.full(lists, 1, draw.choice([np.int8, np.float16, np.uint64, bool, "datetime64[s]", object])),
        lambda: (n for n in range(lists)),
        lambda: {"a": number},
        lambda: 1 / 0,
        lambda: next(iter(())),
        lambda: np.ma.masked_array([1.0] * lists, [True] * lists),
        lambda: [1, [2, 3]],
    ]
    return draw.choice(shapes)()


def _score(bad: Path) -> None:
    draw = Random(int((bad / "seed").read_text()))
    catalog = Catalog.build(["a", "b"], ["A", "B"], [["g"], []], np.array([2, 1]))
    items = np.array([[0, 1], [1, 0], [0, -1]], np.int32)
    lists = Lists(items, Ragged.of([[0]] * 3), Ragged.of([[], [1], [1]]), catalog)
    module = SimpleNamespace(answer=lambda lists: _answer(draw, len(lists)))
    sys.modules["hostile_reward"] = module  # type: ignore[assignment]
    try:
        total, _ = Composite({"hostile_reward:answer": 1.0, "ndcg@2": 0.5}, catalog, 2).score(lists)
    finally:
        del sys.modules["hostile_reward"]
    assert np.isfinite(total).all()


KINDS = {
    "log": Kind(_only(*LOGS, beside="items.csv"), _read_log),
    "items": Kind(_only(*TABLES, beside="log.csv"), _read_log),
    "settings": Kind(_only("settings.yaml"), lambda bad: load_config(bad / "settings.yaml")),
    "prior": Kind(_only("prior.arrow"), _read_prior),
    "catalog": Kind(_below("catalog"), _read_catalog),
    "codec": Kind(_below("codec", "codec.json", "codec.arrow"), _read_codec),
    "trie": Kind(_below("trie"), _read_trie),
    "checkpoint": Kind(_checkpoint, _read_checkpoints),
    "reward": Kind(_reward, _score),
}
