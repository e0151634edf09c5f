"""The static prior on disk: M sorted reference rewards per training prompt, and a stamp of what they depend on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.errors import UserError

STAMP_KEY = b"stamp"


@dataclass(frozen=True)
class Prior:
    """Memory-mapped, sorted by prompt."""

    prompts: NDArray[np.int64]
    """``[P]`` prompt indices, ascending."""
    rewards: NDArray[np.float64]
    """``[P, M]`` reference rewards, each row ascending."""

    @classmethod
    def load(cls, path: Path, stamp: dict[str, Any]) -> Prior:
        """Maps the file without a copy.

        Raises:
            UserError: it was made from something else than ``stamp`` says; every differing key is named.
        """
        table = _map(path)
        _check(path, json.loads(table.schema.metadata[STAMP_KEY]), stamp)
        return cls(*_columns(table))

    def rows(self, prompts: NDArray[np.int64]) -> NDArray[np.float64]:
        """``[B, M]`` reference rewards of the given prompts.

        Raises:
            UserError: a prompt is not in the prior.
        """
        return self.rewards[self.where(prompts)]

    def where(self, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[B]`` rows of the given prompts.

        Raises:
            UserError: a prompt is not in the prior.
        """
        where = np.searchsorted(self.prompts, prompts)
        found = self.prompts[np.minimum(where, len(self.prompts) - 1)] == prompts
        if not found.all():
            missing = int(np.asarray(prompts)[~found][0])
            raise UserError(f"the prior holds no training prompt {missing}: delete it, so that it is made again")
        return where


class PriorWriter:
    """Builds a prior in parts, so that building can stop and go on."""

    def __init__(self, path: Path, stamp: dict[str, Any]) -> None:
        """Opens the folder of parts, which must be of the same stamp.

        Raises:
            UserError: the parts were made from something else.
        """
        self._path = path
        self._stamp = stamp
        self._folder = path.with_name(path.name + ".parts")
        self._folder.mkdir(parents=True, exist_ok=True)
        for part in self._parts():
            _check(self._folder, json.loads(_map(part).schema.metadata[STAMP_KEY]), stamp)

    def done(self) -> NDArray[np.int64]:
        """Prompts that are already there."""
        parts = [_columns(_map(part))[0] for part in self._parts()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def add(self, prompts: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Saves ``[p]`` prompts and their ``[p, M]`` rewards as a part of their own, atomically."""
        _write(self._folder / f"{int(prompts[0]):012d}.arrow", prompts, np.sort(rewards, axis=1), self._stamp)

    def finish(self) -> None:
        """Merges the parts into the prior and removes them."""
        columns = [_columns(_map(part)) for part in self._parts()]
        prompts = np.concatenate([p for p, _ in columns])
        rewards = np.concatenate([r for _, r in columns])
        order = np.argsort(prompts, kind="stable")
        _write(self._path, prompts[order], rewards[order], self._stamp)
        shutil.rmtree(self._folder)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*.arrow"))


def _check(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    other = [
        f"{key} {found.get(key)} instead of {wanted.get(key)}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if other:
        raise UserError(f"{path}: the prior was made from another {'; '.join(other)}: delete it, and it is made again")


def _map(path: Path) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: damaged, no Arrow file ({error}): delete it, and it is made again") from None
    if STAMP_KEY not in (table.schema.metadata or {}):
        raise UserError(f"{path}: not a prior, it has no stamp: delete it, and it is made again")
    return table


def _columns(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rewards = table["rewards"].combine_chunks()
    flat = rewards.flatten().to_numpy(zero_copy_only=True)
    return table["prompt"].combine_chunks().to_numpy(zero_copy_only=True), flat.reshape(len(rewards), -1)


def _write(path: Path, prompts: NDArray[np.int64], rewards: NDArray[np.float64], stamp: dict[str, Any]) -> None:
    flat = pa.array(np.ascontiguousarray(rewards, dtype=np.float64).reshape(-1))
    table = pa.table(
        {"prompt": pa.array(prompts), "rewards": pa.FixedSizeListArray.from_arrays(flat, rewards.shape[1])}
    ).replace_schema_metadata({STAMP_KEY: json.dumps(stamp)})
    temporary = path.with_name(path.name + ".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    temporary.replace(path)
