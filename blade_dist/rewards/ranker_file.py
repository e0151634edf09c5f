"""A ranker's distributions as a user brings them: a Parquet file with a row for each user, or for each prompt. Pure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blade_dist.batches import MISS, Prompts, Ragged, Ranked, offsets_of, ranges
from blade_dist.catalog.catalog import Catalog
from blade_dist.errors import UserError
from blade_dist.store.arrow import arrow_to_ragged

FORMAT = (
    "write a row for each user (column user), or for each prompt (columns split, and prompt: its row in "
    "data/SPLIT.arrow), with a list of item ids (column items) and one of their probabilities (column probabilities)"
)

ROUNDING = 1e-3
"""How far above 1 the probabilities of a row may sum up to."""

USER, PROMPT = ("user",), ("split", "prompt")
"""Columns that say whose row it is."""


class RankerFile:
    """The file of ``reward.ranker``."""

    def __init__(self, path: Path) -> None:
        """Reads and checks it.

        Raises:
            UserError: no such file, no Parquet, other columns, two rows of one user or prompt, a row that is no
                distribution over items.
        """
        self._path = path
        table = self._read()
        self._whose = USER if "user" in table.column_names else PROMPT
        for name in (*self._whose, "items", "probabilities"):
            if name not in table.column_names:
                raise self._error(f"no column {name!r}; {FORMAT}")
        try:
            whose = [_whole(table[name].cast(pa.string())) for name in self._whose]
            items = _whole(table["items"].cast(pa.list_(pa.string())))
            given = _whole(table["probabilities"].cast(pa.list_(pa.float64())))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._error(f"{_one_line(error)}; {FORMAT}") from None
        if any(column.null_count or column.flatten().null_count for column in (items, given)):
            raise self._error(f"a list of items or of probabilities has a gap; {FORMAT}")
        self._names = pc.binary_join_element_wise(*whose, " ")
        self._ids = items.flatten().dictionary_encode()
        self._probability = arrow_to_ragged(given)
        self._check(Ragged(self._ids.indices.to_numpy(), offsets_of(pc.list_value_length(items).to_numpy())))

    def ranked(
        self, split: str, prompts: Prompts, catalog: Catalog, excluded: Ragged, barred: NDArray[np.bool_], size: int
    ) -> Ranked:
        """The ``size`` likeliest items of each of ``n`` prompts that its lists may hold, ``[n, size]``.

        Items that the catalog does not have are left out.

        Args:
            split: whose prompts these are.
            prompts: those that are asked for.
            catalog: the items.
            excluded: int32 catalog indices that each prompt's lists may not hold, ``n`` rows.
            barred: ``[I]`` whether no list may hold the item.
            size: items at most.

        Raises:
            UserError: there is no row for a prompt, or none of its items may be in a list.
        """
        names = prompts.user if self._whose == USER else [f"{split} {row}" for row in prompts.index]
        rows = pc.index_in(pa.array(names, pa.string()), self._names)
        self._check_all(rows.is_valid().to_numpy(zero_copy_only=False), split, prompts, "a row")
        probability, numbers = self._probability.take(rows.to_numpy()), self._numbers(catalog)
        items = numbers[Ragged(self._ids.indices.to_numpy(), self._probability.offsets).take(rows.to_numpy()).flat]
        owner = np.repeat(np.arange(len(prompts)), probability.lengths)
        # one number for each (prompt, item)
        had = np.repeat(np.arange(len(prompts)), excluded.lengths) * len(catalog) + excluded.flat
        kept = (items != MISS) & (probability.flat > 0) & ~np.isin(owner * len(catalog) + items, had)
        kept[kept] = ~barred[items[kept]]
        owner, items, likely = owner[kept], items[kept], probability.flat[kept]
        lengths = np.bincount(owner, minlength=len(prompts))
        self._check_all(lengths > 0, split, prompts, "an item that a list may hold")
        order, place = np.lexsort((-likely, owner)), ranges(0, lengths)
        order, place = order[place < size], place[place < size]
        best = Ranked(np.full((len(prompts), size), MISS, np.int32), np.full((len(prompts), size), -np.inf))
        best.items[owner[order], place] = items[order]
        best.scores[owner[order], place] = np.log(likely[order])
        return best

    def _read(self) -> pa.Table:
        if not self._path.is_file():
            raise self._error(f"no such file; {FORMAT}")
        try:
            return pq.read_table(self._path)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._error(f"not readable as Parquet: {_one_line(error)}") from None

    def _numbers(self, catalog: Catalog) -> NDArray[np.int64]:
        """Catalog index of each different item id; :data:`MISS` where there is none."""
        known = pc.index_in(self._ids.dictionary, pa.array(catalog.item_ids, pa.string()))
        numbers: NDArray[np.int64] = pc.fill_null(known, MISS).to_numpy().astype(np.int64)
        return numbers

    def _check(self, items: Ragged) -> None:
        given, rows = self._probability, np.arange(len(self._names))
        first = pc.index_in(self._names, self._names).to_numpy(zero_copy_only=False)
        self._check_rows(first == rows, "stands there twice; give each one row")
        self._check_rows(items.lengths == given.lengths, "has more items than probabilities, or fewer; give each one")
        owner = np.repeat(rows, given.lengths)
        wrong = ~((given.flat >= 0) & (given.flat <= 1))
        self._check_rows(np.bincount(owner, wrong, len(rows)) == 0, "has a probability that is not from 0 to 1")
        sums = np.bincount(owner, given.flat, len(rows))
        self._check_rows(sums <= 1 + ROUNDING, "has probabilities that sum up to more than 1")
        again = np.bincount(owner, ~items.first_times(), len(rows))
        self._check_rows(again == 0, "names an item twice; give each its probability once")

    def _check_rows(self, good: NDArray[np.bool_], text: str) -> None:
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise self._error(f"row {row + 1} ({' and '.join(self._whose)} {self._names[row].as_py()!r}) {text}")

    def _check_all(self, there: NDArray[np.bool_], split: str, prompts: Prompts, what: str) -> None:
        if not there.all():
            row = int(np.flatnonzero(~there)[0])
            raise self._error(
                f"{(~there).sum()} of {len(prompts)} {split} prompts lack {what}, the first is prompt "
                f"{prompts.index[row]}, of user {prompts.user[row]!r}; {FORMAT}"
            )

    def _error(self, text: str) -> UserError:
        return UserError(f"reward.ranker: {self._path}: {text}")


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """One chunk, which begins at the beginning of its values."""
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
