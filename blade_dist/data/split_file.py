"""A ready split as a file: Parquet, or CSV with items that are joined by ``data.group_separator``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from blade_dist.batches import Ragged, offsets_of
from blade_dist.data.held_rows import HeldName, HeldRows
from blade_dist.data.ids import ItemIndex, id_text
from blade_dist.data.list_text import as_lists, looks_listed
from blade_dist.data.rawlog import require_columns
from blade_dist.data.remarks import Remarks, shown
from blade_dist.data.table import is_list
from blade_dist.data.tables import open_tables, whole
from blade_dist.data.text_table import TextTable
from blade_dist.data.times import microseconds
from blade_dist.errors import UserError
from blade_dist.settings import DataSettings

WORDS: dict[str, tuple[str, ...]] = {"train": ("train",), "validation": ("valid", "validation"), "test": ("test",)}
"""What may stand in the column ``split``. Rows to train with are not read: training prompts come from the log."""

_NEEDED = ("split", "user", "history", "item")
_IDS = pa.list_(pa.string())


class SplitFile:
    """Columns ``split``, ``user``, ``history`` (item ids, oldest first), ``item`` (one id or several), maybe ``time``.

    Args:
        path: the file.
        settings: how text is written, and what stands between two items in it.

    Raises:
        UserError: no such file, a missing column, another word as a split, a time that is no whole number.
    """

    def __init__(self, path: Path, settings: DataSettings) -> None:
        self.path, self._day_first = path, settings.day_first
        self.remarks = Remarks()
        """What was repaired or left out."""
        if path.is_dir():
            raise UserError(f"data.splits: {path} is a folder; give one file")
        (self._read,) = open_tables(path, "data.splits", settings, {*_NEEDED, "time"}, self.remarks)
        names = [*_NEEDED, *(name for name in self._read.names if name == "time")]
        require_columns(path, self._read.names, {f"data.splits needs {name}": name for name in names})
        self._table = self._standard(whole(self._read, names), settings.group_separator)

    def rows(self, name: HeldName, items: pa.Table) -> HeldRows:
        """The rows of one split.

        Args:
            name: the split.
            items: those with an id and a title, each once.

        Raises:
            UserError: no row, one without a user, an empty history, a row without a target, an unknown item.
        """
        number = self._numbers(name)
        if not len(number):
            raise UserError(f"{self.path}: no row has the split {name} (data.splits)")
        table = self._table.take(pa.array(number)).combine_chunks()
        if (nobody := _places(table.column("user").is_null())).size:
            raise UserError(f"{self._where(int(number[nobody[0]]))}: the user is empty; name one or leave the row out")
        history, targets = (self._known(table, number, column, items) for column in ("history", "item"))
        times = table.column("time").to_numpy() if "time" in table.column_names else None
        users = table.column("user").combine_chunks()
        return HeldRows(users, history, targets.distinct(), times, lambda row: self._where(int(number[row])))

    @property
    def train_rows(self) -> int:
        """Rows that are not read."""
        return len(self._numbers("train"))

    def _numbers(self, name: str) -> NDArray[np.int64]:
        return _places(pc.is_in(self._table.column("split"), value_set=pa.array(WORDS[name])))

    def _where(self, row: int) -> str:
        """``file: row number``, from 1; in CSV ``file:line``."""
        table = self._read.table
        return f"{self.path}:{table.line_of(row)}" if isinstance(table, TextTable) else f"{self.path}: row {row + 1}"

    def _standard(self, table: pa.Table, separator: str) -> pa.Table:
        columns = {"split": table.column("split").cast(pa.string()), "user": self._ids(table.column("user"), "user")}
        known = [word for words in WORDS.values() for word in words]
        if (bad := _places(pc.invert(pc.is_in(columns["split"], value_set=pa.array(known))))).size:
            word = columns["split"][int(bad[0])].as_py()
            raise UserError(f"{self._where(int(bad[0]))}: the split {word!r} is none of {', '.join(known)}")
        for name in ("history", "item"):
            ids = table.column(name)
            if isinstance(self._read.table, TextTable):
                ids = pc.if_else(pc.equal(ids, ""), None, ids)
                ids = as_lists(ids) if looks_listed(ids) else pc.split_pattern(ids, separator)
            elif not is_list(ids.type):
                if name == "history":
                    raise UserError(f"{self.path}: column 'history' (data.splits) is not a list of item ids")
                there = pc.is_valid(ids).to_numpy()
                ids = pa.ListArray.from_arrays(offsets_of(there).astype(np.int32), ids.drop_null().combine_chunks())
            try:
                columns[name] = ids.cast(_IDS)
            except pa.ArrowNotImplementedError:
                raise UserError(f"{self.path}: column {name!r} (data.splits) holds no ids, but {ids.type}") from None
        if "time" in table.column_names:
            columns["time"] = self._times(table.select(["time"]))
        return pa.table(columns)

    def _times(self, table: pa.Table) -> pa.Array:
        times, _ = microseconds(table.column("time"), self._day_first)
        if (bad := _places(times.is_null())).size:
            value = shown(table.column("time")[int(bad[0])].as_py())
            raise UserError(f"{self._where(int(bad[0]))}: column 'time': {value} is no time (a number or 2024-01-31)")
        return times

    def _ids(self, column: pa.ChunkedArray | pa.Array, what: str) -> pa.Array:
        try:
            return id_text(column, what, self.remarks)
        except ValueError as error:
            raise UserError(f"{self.path}: column {what!r} (data.splits) {error}") from None

    def _known(self, table: pa.Table, number: NDArray[np.int64], name: str, items: pa.Table) -> Ragged:
        """A column of ids as rows of the items table; ``number``: the rows' numbers in the file."""
        column = table.column(name).combine_chunks()
        ids = pc.list_flatten(column)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        offsets = offsets_of(lengths)
        if (empty := np.flatnonzero(lengths == 0)).size:
            what, row = "the history is empty" if name == "history" else "no item is held out", int(number[empty[0]])
            raise UserError(f"{self._where(row)}: {what}; give the row an item there or leave it out")
        index = ItemIndex(items.column("item").combine_chunks()).rows(
            self._ids(ids, "item"), self.remarks, "data.splits"
        )
        if (unknown := _places(index.is_null())).size:
            row = int(number[np.searchsorted(offsets, unknown[0], side="right") - 1])
            raise UserError(
                f"{self._where(row)}: item {ids[int(unknown[0])].as_py()!r} (column {name!r}) is no item with a title; "
                "add it to data.items or leave the row out"
            )
        return Ragged(index.to_numpy().astype(np.int32), offsets)


def _places(mask: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """Where the mask holds."""
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False) if isinstance(mask, pa.Array) else mask.to_numpy())
