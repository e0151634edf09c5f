"""The record of a run: every step is a row of a Parquet file, and scalars in TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blade_dist.store.files import whole_file
from blade_dist.tracking.alarms import COLUMN, Alarms

FLUSH_S = 10.0
"""Longest time that rows wait to be written."""


def drop_rows_from(path: Path, step: int) -> None:
    """Takes ``step`` and later steps out of the file, where there is one: a run that goes on there makes them again."""
    if not path.is_file():
        return
    rows = pq.read_table(path)
    kept = rows.filter(pc.less(rows["step"], step))
    if not len(kept):
        path.unlink()
    elif len(kept) < len(rows):
        with whole_file(path) as temporary:
            pq.write_table(kept, temporary)


class StepLog:
    """Rows by step; the file is rewritten whole, atomically. A recorded step replaces itself and all later ones."""

    def __init__(self, path: Path, tensorboard: Path | None, alarms: Callable[[], Alarms] | None = None) -> None:
        """Continues the file, where there is one.

        Args:
            path: the Parquet file.
            tensorboard: folder of the event files; None: none are written.
            alarms: makes what looks at the rows of a run; None: nobody does.
        """
        self._path = path
        self._alarms = alarms
        self._rows: list[dict[str, float]] = pq.read_table(path).to_pylist() if path.is_file() else []
        self._tensorboard = tensorboard
        self._looking: Alarms | None = None
        self._writer: Any = None
        self._flushed = time.monotonic()
        self._ends = False
        self._doing = ""

    def at(self, doing: str) -> None:
        """Those who record the steps are at this, and no step is done yet."""
        self._doing = doing

    def doing(self) -> str:
        """What :meth:`at` was told last."""
        return self._doing

    def record(self, step: int, row: dict[str, float]) -> None:
        """Adds the row of ``step``; rows of that step and later ones, of a lost attempt, are dropped.

        Warnings that it gives are columns of the row.
        """
        kept = [old for old in self._rows if old["step"] < step]
        if self._alarms is not None:
            if self._looking is None or len(kept) < len(self._rows):  # it has seen others, or none yet
                self._looking = self._alarms()
                for old in kept:
                    self._looking.see(old)
            row = row | dict.fromkeys((f"{COLUMN}{name}" for name in self._looking.see(row)), 1.0)
        self._rows = [*kept, {"step": step, **row}]
        self._scalars(step, row)
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def rows_after(self, step: int) -> list[tuple[int, dict[str, float]]]:
        """Rows of later steps."""
        return [(int(row["step"]), row) for row in self._rows if row["step"] > step]

    def ask_to_end(self) -> None:
        """Whoever reads the steps wants no more of them."""
        self._ends = True

    def asked_to_end(self) -> bool:
        """Whether :meth:`ask_to_end` was called; those who record the steps look."""
        return self._ends

    def flush(self, steps: int = 0) -> None:
        """Writes all rows.

        Raises:
            RuntimeError: not all of the first ``steps`` steps are there, as the log has died and was started again:
                those who record them must do so again.
        """
        if (known := sum(row["step"] < steps for row in self._rows)) < steps:
            raise RuntimeError(f"{self._path}: of {steps} steps {known} are known: the log was started again")
        self._flushed = time.monotonic()
        if not self._rows:
            return
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        table = pa.table({name: [row.get(name) for row in self._rows] for name in names})
        with whole_file(self._path) as temporary:
            pq.write_table(table, temporary)

    def close(self) -> None:
        """Writes what is left."""
        self.flush()
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, step: int, row: dict[str, float]) -> None:
        if self._tensorboard is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # events cannot be taken back: a resumed run hides those from its first step on
            self._writer = SummaryWriter(str(self._tensorboard), purge_step=step)
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
