"""The items that a list may hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.batches import Ragged
from blade_dist.errors import UserError
from blade_dist.store.arrow import arrow_to_ragged, ragged_to_arrow, read_table, write_table
from blade_dist.store.files import readable
from blade_dist.store.fingerprint import fingerprint_arrays


@dataclass(frozen=True, eq=False)
class Catalog:
    """``I`` items; an item's index is its row here."""

    item_ids: NDArray[np.object_]
    """``[I]`` str, as in the log."""
    titles: NDArray[np.object_]
    """``[I]`` str, unique: a repeated title carries its number, ``Title (2)``."""
    groups: Ragged
    """``I`` rows of int32 group numbers, sorted; a row may be empty."""
    group_names: list[str]
    """Name of each group, sorted."""
    popularity: NDArray[np.int64]
    """``[I]`` interactions in the training part of the log (validation and test are not counted)."""
    embeddings: NDArray[np.float32] | None
    """``[I, D]`` where the items came with one."""
    withdrawn: NDArray[np.bool_] | None = None
    """``[I]`` whether the item is no longer on sale: a history may name it, and no list may hold it. None: all
    are on sale."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def n_groups(self) -> int:
        return len(self.group_names)

    @property
    def on_sale(self) -> int:
        """Items that a list may hold."""
        return len(self) if self.withdrawn is None else int((~self.withdrawn).sum())

    @property
    def cold(self) -> NDArray[np.bool_]:
        """``[I]`` whether a list may hold the item, and no interaction with it was trained on."""
        never = self.popularity == 0
        return never if self.withdrawn is None else never & ~self.withdrawn

    @classmethod
    def build(
        cls,
        item_ids: Sequence[str],
        titles: Sequence[str],
        groups: Sequence[Sequence[str]],
        popularity: NDArray[np.int64],
        embeddings: NDArray[np.float32] | None = None,
    ) -> Catalog:
        """From names as the log has them: numbers the groups and makes the titles unique.

        Raises:
            UserError: an empty title.
        """
        names = sorted({name for row in groups for name in row})
        number = {name: index for index, name in enumerate(names)}
        rows = [sorted({number[name] for name in row}) for row in groups]
        return cls(
            item_ids=np.array(item_ids, dtype=object),
            titles=np.array(unique_titles(titles, item_ids), dtype=object),
            groups=Ragged.of(rows),
            group_names=names,
            popularity=np.asarray(popularity, dtype=np.int64),
            embeddings=None if embeddings is None else np.ascontiguousarray(embeddings, dtype=np.float32),
        )

    def take(self, rows: NDArray[np.int64]) -> Catalog:
        """The given rows, in the given order."""
        return replace(
            self,
            item_ids=self.item_ids[rows],
            titles=self.titles[rows],
            groups=self.groups.take(rows),
            popularity=self.popularity[rows],
            embeddings=None if self.embeddings is None else self.embeddings[rows],
            withdrawn=None if self.withdrawn is None else self.withdrawn[rows],
        )

    def group_matrix(self) -> NDArray[np.float32]:
        """float32 ``[I, n_groups]``: an item adds 1/#its groups to each of its groups; rows sum to 1, or to 0."""
        matrix = np.zeros((len(self), self.n_groups), dtype=np.float32)
        lengths = self.groups.lengths
        items = np.repeat(np.arange(len(self)), lengths)
        matrix[items, self.groups.flat] = 1.0 / lengths[items]
        return matrix

    def fingerprint(self) -> str:
        """Equal catalogs, equal fingerprint."""
        vectors = np.zeros(0, np.float32) if self.embeddings is None else self.embeddings
        gone = [] if self.withdrawn is None else [self.withdrawn]
        return fingerprint_arrays(
            list(self.item_ids), list(self.titles), self.groups, self.group_names, self.popularity, vectors, *gone
        )

    def save(self, folder: Path) -> None:
        """Writes ``items.arrow``, atomically."""
        columns = {
            "item_id": pa.array(self.item_ids, pa.string()),
            "title": pa.array(self.titles, pa.string()),
            "groups": ragged_to_arrow(self.groups),
            "popularity": pa.array(self.popularity),
        }
        if self.embeddings is not None:
            flat = pa.array(self.embeddings.reshape(-1))
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, self.embeddings.shape[1])
        if self.withdrawn is not None:
            columns["withdrawn"] = pa.array(self.withdrawn)
        table = pa.table(columns).replace_schema_metadata({"group_names": json.dumps(self.group_names)})
        write_table(table, folder / "items.arrow")

    @classmethod
    def load(cls, folder: Path) -> Catalog:
        """Reads ``items.arrow``; numbers are memory-mapped.

        Raises:
            FileNotFoundError: no such file.
            UserError: it is damaged.
        """
        table = read_table(folder / "items.arrow").combine_chunks()
        with readable(folder / "items.arrow", f"delete {folder.parent}, and make it again"):
            return cls._of(table)

    @classmethod
    def _of(cls, table: pa.Table) -> Catalog:
        """
        Raises:
            KeyError, ValueError, ...: no such table as :meth:`save` writes.
        """
        embeddings = None
        if "embedding" in table.column_names:
            column = table.column("embedding").chunk(0)
            embeddings = column.flatten().to_numpy().reshape(len(column), -1)
        withdrawn = None
        if "withdrawn" in table.column_names:
            withdrawn = table.column("withdrawn").to_numpy()
        groups, names = arrow_to_ragged(table.column("groups")), json.loads(table.schema.metadata[b"group_names"])
        if len(groups.flat) and not 0 <= groups.flat.min() <= groups.flat.max() < len(names):
            raise ValueError(f"groups of other numbers than 0 to {len(names) - 1}")
        return cls(
            item_ids=table.column("item_id").to_numpy(),
            titles=table.column("title").to_numpy(),
            groups=groups,
            group_names=names,
            popularity=table.column("popularity").chunk(0).to_numpy(),
            embeddings=embeddings,
            withdrawn=withdrawn,
        )


def unique_titles(titles: Sequence[str], item_ids: Sequence[str]) -> list[str]:
    """Titles with white space collapsed; the second and later of equal ones get `` (2)``, `` (3)``, ...

    Raises:
        UserError: an empty title, naming the item.
    """
    clean = [" ".join(title.split()) for title in titles]
    if "" in clean:
        raise UserError(f"item {item_ids[clean.index('')]!r}: its title is empty; every item needs a title")
    taken, seen = set(clean), Counter[str]()
    for index, title in enumerate(clean):
        seen[title] += 1
        if seen[title] == 1:
            continue
        while (candidate := f"{title} ({seen[title]})") in taken:
            seen[title] += 1
        taken.add(candidate)
        clean[index] = candidate
    return clean
