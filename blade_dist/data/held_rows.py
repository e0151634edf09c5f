"""Rows of a ready split: who is asked for what. Kept as they are, and checked. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import ExcludeHistory, Ragged, offsets_of, ranges
from blade_dist.errors import UserError

HeldName = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class HeldRows:
    """Rows of one split, in the file's order."""

    users: pa.Array
    """``[R]`` string."""
    history: Ragged
    """int32 rows of the items table, oldest first: all that the user had before."""
    targets: Ragged
    """int32 rows of the items table, none twice in a row, at least one."""
    times: NDArray[np.int64] | None
    """``[R]`` in the log's unit; None where the file has no times."""
    where: Callable[[int], str]
    """The place of each row in the file, for a message."""

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def had(self) -> NDArray[np.int64]:
        """For each of ``targets.flat``: how often the row's history holds it."""
        known, wanted = _pairs(self.history, self.targets)
        known.sort()
        return np.searchsorted(known, wanted, side="right") - np.searchsorted(known, wanted)

    def part(self, start: int, stop: int) -> tuple[pa.Array, Ragged, Ragged]:
        """Users, histories and targets of the rows ``start`` to ``stop``."""
        rows = np.arange(start, min(stop, len(self)))
        return self.users.slice(start, len(rows)), self.history.take(rows), self.targets.take(rows)


def check_once(rows: HeldRows, name: HeldName, most: int) -> None:
    """Raises UserError where a user has more than ``most`` rows."""
    user = rows.users.dictionary_encode().indices.to_numpy()
    order = np.argsort(user, kind="stable")
    # ``most`` rows further on in this order it is still the same user
    again = np.flatnonzero(user[order[most:]] == user[order[:-most]])
    if again.size:
        first, later = order[again[0]], order[again[0] + most]
        limit = f"data.test_windows is {most}" if name == "test" else "a user is validated once"
        raise UserError(
            f"{rows.where(later)}: user {rows.users[first].as_py()!r} has {most} {name} row(s) before it, from "
            f"{rows.where(first)} on, and {limit}; leave the row out"
            f"{' or raise data.test_windows' if name == 'test' else ''}"
        )


def check_targets(rows: HeldRows, exclude_history: ExcludeHistory, max_history: int) -> None:
    """Raises UserError where a row's history, or the ``max_history`` items of it that are shown, forbids a target."""
    if exclude_history is False:
        return
    known, wanted = _pairs(rows.history if exclude_history is True else last(rows.history, max_history), rows.targets)
    forbidden = np.flatnonzero(np.isin(wanted, known))
    if forbidden.size:
        row = np.searchsorted(rows.targets.offsets, forbidden[0], side="right") - 1
        raise UserError(
            f"{rows.where(row)}: an item that is held out is in its own history, and with lists.exclude_history "
            f"{str(exclude_history).lower()} no list may hold it; leave the row out or set lists.exclude_history: false"
        )


def last(rows: Ragged, most: int) -> Ragged:
    """The last ``most`` items of each row."""
    lengths = np.minimum(rows.lengths, most)
    return Ragged(rows.flat[ranges(rows.offsets[1:] - lengths, lengths)], offsets_of(lengths))


def _pairs(*parts: Ragged) -> tuple[NDArray[np.int64], ...]:
    """One number for each (row, item), the same in all parts."""
    width = 1 + max(int(part.flat.max(initial=0)) for part in parts)
    return tuple(np.repeat(np.arange(len(part)), part.lengths) * width + part.flat for part in parts)
