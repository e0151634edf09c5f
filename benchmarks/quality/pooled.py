"""Every list that any policy of any seed wrote, in one table, and the numbers that are read off it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.segments import segment_scores
from blade_dist.batches import Ragged
from blade_dist.data.bundle import DataBundle
from blade_dist.evaluation.corpus import corpus_metrics
from blade_dist.evaluation.decoding import BEAM, LIST, RANK, SAMPLED
from blade_dist.evaluation.per_user import KEYS
from blade_dist.rewards.lists import Lists
from blade_dist.store.files import whole_file

DECODES = (LIST, RANK, BEAM, SAMPLED)
CORPUS = ("coverage", "gini", "miss")
"""Numbers of all lists of a seed together; miss: the share of positions that are invalid or repeated."""


class PooledRows:
    """Rows of policies and seeds: seed, policy, decode, user, prompt, items, reward, metrics, segments."""

    def __init__(self, data: DataBundle, segments: Mapping[str, Ragged]) -> None:
        self._data, self._segments = data, segments
        self._parts: dict[tuple[int, str, str], pd.DataFrame] = {}
        self._corpus: dict[tuple[int, str, str], dict[str, float]] = {}

    def add(self, rows: Path, seed: int, names: Mapping[str, str] | None = None) -> None:
        """An evaluation's rows; with ``names``, only those policies, by their new names."""
        table = pq.read_table(rows).to_pandas()
        for (policy, decode), part in table.groupby(["policy", "decode"], sort=False):
            if names is None or policy in names:
                self._add(seed, names[policy] if names else policy, decode, part.sort_values("prompt"))

    def save(self, path: Path) -> None:
        """A Parquet file for each seed, ``<stem>-seed0.parquet`` for instance, each atomically."""
        for seed in dict.fromkeys(seed for seed, _, _ in self._parts):
            parts = [part for key, part in self._parts.items() if key[0] == seed]
            file = path.with_stem(f"{path.stem}-seed{seed}")
            table = pa.Table.from_pandas(pd.concat(parts), preserve_index=False)
            with whole_file(file) as temporary:
                pq.write_table(table, temporary, compression="zstd")

    def policies(self, decode: str) -> list[str]:
        """In the order in which they came."""
        return list(dict.fromkeys(policy for _, policy, of in self._parts if of == decode))

    def rows(self, policy: str, decode: str) -> pd.DataFrame:
        """All seeds, ordered by seed and prompt."""
        chosen = [self._parts[key] for key in sorted(key for key in self._parts if key[1:] == (policy, decode))]
        return pd.concat(chosen, ignore_index=True)

    def corpus(self, policy: str, decode: str) -> dict[str, float]:
        """Means over seeds of :data:`CORPUS`."""
        of_seeds = [of for key, of in self._corpus.items() if key[1:] == (policy, decode)]
        return {name: float(np.mean([of[name] for of in of_seeds])) for name in CORPUS}

    def prompts(self) -> dict[str, int]:
        """Column -> test prompts that have a number there; a segment leaves some out."""
        rows = next(iter(self._parts.values()))
        return {name: int(rows[name].notna().sum()) for name in columns(rows)}

    def by_seed(self, column: str) -> dict[str, dict[str, dict[str, float]]]:
        """Decode -> policy -> seed -> mean of the column."""
        return {
            decode: {
                policy: {
                    str(seed): float(part[column].mean())
                    for (seed, *of), part in self._parts.items()
                    if of == [policy, decode]
                }
                for policy in self.policies(decode)
            }
            for decode in DECODES
        }

    def _add(self, seed: int, policy: str, decode: str, part: pd.DataFrame) -> None:
        index = part["prompt"].to_numpy()
        prompts = self._data.test.rows(index)
        items = np.stack(part["items"].to_numpy())
        lists = Lists(items, prompts.targets, prompts.history, self._data.catalog, prompts.user)
        scores = {f"ndcg@5, {name}": segment_scores(lists, kept.take(index)) for name, kept in self._segments.items()}
        key = (seed, policy, decode)
        self._parts[key] = part.assign(seed=seed, policy=policy, decode=decode, **scores)
        self._corpus[key] = {name: corpus_metrics(lists)[name] for name in CORPUS}


def columns(rows: pd.DataFrame) -> list[str]:
    """Reward, metrics and segments."""
    return [name for name in rows.columns if name not in (*KEYS, "seed")]
