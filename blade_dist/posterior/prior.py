"""The static prior on disk: M sorted reference rewards per training prompt, and a stamp of what they depend on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.errors import UserError
from blade_dist.store.arrow import write_table
from blade_dist.store.changes import changes, made_otherwise
from blade_dist.store.files import readable

STAMP_KEY = b"stamp"

SCALES_KEY = b"scales"

POOLED = 4096
"""Lists that stand for the pooled distribution of all prompts at most."""

AGAIN = "delete it, and it is made again"

PART = "part:"
"""Begins the name of a part's column."""


@dataclass(frozen=True)
class Prior:
    """The rewards of the reference's lists, sorted by prompt.

    Columns are views of the memory-mapped file: only the rows of a step's prompts are read from disk.
    """

    prompts: NDArray[np.int64]
    """``[P]`` prompt indices, ascending."""
    rewards: NDArray[np.float64]
    """``[P, M]`` reference rewards, each row ascending; not a number where a (cold) prompt has fewer lists."""
    parts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """``[P, M]`` of the same lists, by name: metrics that are constrained."""
    scales: dict[str, float] = field(default_factory=dict)
    """What each metric was divided by before it was weighted; empty where none was."""

    @cached_property
    def pool(self) -> NDArray[np.int64] | None:
        """Places, in the flat arrays, of the lists that stand for all prompts'; None where no prompt is cold."""
        # lists that a prompt lacks are at the end of its row: rows are sorted, and numpy sorts nan last
        if not np.isnan(self.rewards[:, -1]).any():
            return None
        known = np.flatnonzero(~np.isnan(self.rewards))
        # a fixed seed: after a restart, and in every process that opens the prior, the pool is the same
        return np.sort(np.random.default_rng(0).choice(known, min(len(known), POOLED), replace=False))

    @classmethod
    def load(cls, path: Path, stamp: dict[str, Any]) -> Prior:
        """Maps the file without a copy.

        Raises:
            UserError: it was made from something else than ``stamp``; every differing key is named.
        """
        table = _map(path)
        with readable(path, AGAIN):
            _check(path, json.loads(table.schema.metadata[STAMP_KEY]), stamp)
            prompts, columns = _columns(table)
            parts = {name.removeprefix(PART): values for name, values in columns.items() if name.startswith(PART)}
            return cls(prompts, columns["rewards"], parts, _scales(table))

    def where(self, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[B]`` rows of the given prompts.

        Raises:
            UserError: a prompt is not in the prior.
        """
        where = np.searchsorted(self.prompts, prompts)
        there = self.prompts[np.minimum(where, len(self.prompts) - 1)] == prompts
        if not there.all():
            missing = int(np.asarray(prompts)[~there][0])
            raise UserError(
                f"the prior (prior.arrow in run.dir) holds no training prompt {missing}: move it away, so that it "
                "is made again"
            )
        return where


class PriorWriter:
    """Builds a prior in parts, so that a build that was interrupted keeps what it has."""

    def __init__(self, path: Path, stamp: dict[str, Any]) -> None:
        """Opens the folder of parts, which must be of the same stamp.

        Raises:
            UserError: the parts were made from something else.
        """
        self._path = path
        self._stamp = stamp
        self._folder = path.with_name(path.name + ".parts")
        self._folder.mkdir(parents=True, exist_ok=True)
        self.scales: dict[str, float] = {}
        """See :attr:`Prior.scales`; those of the parts that are there."""
        for part in self._parts():
            table = _map(part)
            _check(self._folder, json.loads(table.schema.metadata[STAMP_KEY]), stamp)
            self.scales = _scales(table)

    def done(self) -> NDArray[np.int64]:
        """Prompts that are already there."""
        parts = [_columns(_map(part))[0] for part in self._parts()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def add(
        self,
        prompts: NDArray[np.int64],
        rewards: NDArray[np.float64],
        parts: dict[str, NDArray[np.float64]] | None = None,
    ) -> None:
        """Saves ``[p]`` prompts, their ``[p, n]`` rewards and these lists' ``parts`` as a file, atomically.

        n may differ from call to call: M is the largest one. What is not a number is a list that a cold prompt lacks.
        """
        order = np.argsort(rewards, axis=1, kind="stable")
        # the parts follow the order of the rewards: each column of a row is still one list
        columns = {"rewards": rewards, **{PART + name: values for name, values in (parts or {}).items()}}
        ordered = {name: np.take_along_axis(values, order, axis=1) for name, values in columns.items()}
        _write(self._folder / f"{int(prompts[0]):012d}.arrow", prompts, ordered, self._metadata())

    def finish(self) -> None:
        """Merges the parts into the prior and removes them; prompts with fewer than M lists lack the rest."""
        files = [_columns(_map(part)) for part in self._parts()]
        lists = max(columns["rewards"].shape[1] for _, columns in files)
        prompts = np.concatenate([p for p, _ in files])
        order = np.argsort(prompts, kind="stable")
        columns = {name: np.concatenate([_widened(c[name], lists) for _, c in files])[order] for name in files[0][1]}
        _write(self._path, prompts[order], columns, self._metadata())
        shutil.rmtree(self._folder)

    def _metadata(self) -> dict[bytes, str]:
        return {STAMP_KEY: json.dumps(self._stamp), SCALES_KEY: json.dumps(self.scales)}

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*.arrow"))


def _check(path: Path, stamp: dict[str, Any], wanted: dict[str, Any]) -> None:
    if changed := changes(stamp, wanted):
        instead = "choose another run.dir, or move it and what it trained away: both are made anew"
        raise made_otherwise(f"{path}: the prior", changed.values(), instead)


def _map(path: Path) -> pa.Table:
    with readable(path, AGAIN):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
    if STAMP_KEY not in (table.schema.metadata or {}):
        raise UserError(f"{path}: not a prior, it has no stamp: {AGAIN}")
    return table


def _scales(table: pa.Table) -> dict[str, float]:
    scales: dict[str, float] = json.loads(table.schema.metadata.get(SCALES_KEY, "{}"))
    return scales


def _columns(table: pa.Table) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    columns = {}
    for name in table.column_names:
        if name != "prompt":
            rows = table[name].combine_chunks()
            columns[name] = rows.flatten().to_numpy(zero_copy_only=True).reshape(len(rows), -1)
    return table["prompt"].combine_chunks().to_numpy(zero_copy_only=True), columns


def _widened(values: NDArray[np.float64], lists: int) -> NDArray[np.float64]:
    """``[p, n]`` values as ``[p, lists]``."""
    return np.pad(values, ((0, 0), (0, lists - values.shape[1])), constant_values=np.nan)


def _write(
    path: Path, prompts: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], metadata: dict[bytes, str]
) -> None:
    def rows(values: NDArray[np.float64]) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float64).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    table = pa.table(
        {"prompt": pa.array(prompts), **{name: rows(values) for name, values in columns.items()}}
    ).replace_schema_metadata(metadata)
    write_table(table.combine_chunks(), path)
