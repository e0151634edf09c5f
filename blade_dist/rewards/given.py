"""The lists that a function of the user's is at, kept in a file as long as it is: whatever becomes of it, they can be
given to it again. And what it prints, cut short. Pure."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa

from blade_dist.batches import MISS, Ragged
from blade_dist.rewards.lists import Lists

_LOG = logging.getLogger(__name__)
PRINTED = 2000
"""Characters that a function may print, each time that it is called; the rest is counted and left out."""


class GivenLists:
    """Whose functions are called one at a time, in this process."""

    def __init__(self, folder: Path, split: str) -> None:
        """``folder``: of the files; ``split``: whose lists they are, for the file's name."""
        self.file = folder / f"lists-{split}-{os.getpid()}.arrow"
        self.function: str | None = None
        """Import path of the one that is called at the moment; None where none is."""

    @contextmanager
    def kept(self, function: str, lists: Lists) -> Iterator[None]:
        """Inside, ``function`` is called; the file stays where the block does not end well, be it by a process's end.

        The file is Arrow: ``user``, ``items`` (ids as in the log, null for a miss), ``targets``, ``history``; its
        metadata names the function.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        table = _table(function, lists)
        # not by way of a second file, nor brought to the disk: the process may end here, the machine is not meant
        with pa.OSFile(str(self.file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self.function = function
        try:
            with cut_short(function):
                yield
        finally:
            self.function = None
        self.file.unlink()


def newest_kept(folder: Path, split: str, since: float) -> str:
    """Which function was at lists of ``split`` when a process ended, and where they are; nothing where none was.

    ``since``: in seconds of Unix time; files of earlier runs are not looked at.
    """
    written = {file: file.stat().st_mtime for file in folder.glob(f"lists-{split}-*.arrow")}
    files = sorted((file for file, when in written.items() if when >= since), key=written.__getitem__)
    if not files:
        return ""
    with pa.memory_map(str(files[-1])) as source:
        function = pa.ipc.open_file(source).schema.metadata[b"function"].decode()
    return f"{function} was called with the lists in {files[-1]}"


def _table(function: str, lists: Lists) -> pa.Table:
    users = [None] * len(lists) if lists.users is None else lists.users
    columns = {
        "user": pa.array(users),
        "items": _named(Ragged(lists.items.reshape(-1), np.arange(len(lists) + 1) * lists.items.shape[1]), lists),
        "targets": _named(lists.targets, lists),
        "history": _named(lists.history, lists),
    }
    return pa.table(columns).replace_schema_metadata({"function": function})


def _named(rows: Ragged, lists: Lists) -> pa.ListArray:
    ids = pa.array(lists.catalog.item_ids, pa.string())
    names = ids.take(pa.array(rows.flat, mask=rows.flat == MISS))
    return pa.ListArray.from_arrays(pa.array(rows.offsets, pa.int32()), names)


class _Cut(TextIOBase):
    """Passes the first :data:`PRINTED` characters on."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._to.write(text[: max(0, PRINTED - self.count)])
        self.count += len(text)
        return len(text)


@contextmanager
def cut_short(function: str) -> Iterator[None]:
    """Inside, what ``function`` prints is cut short; says so afterwards."""
    out, err = _Cut(sys.stdout), _Cut(sys.stderr)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        if max(out.count, err.count) > PRINTED:
            total = out.count + err.count
            _LOG.warning("%s printed %d characters in one call; %d of each stream are shown", function, total, PRINTED)
