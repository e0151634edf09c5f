"""A catalog that is written as an earlier one was: what both have keeps its tokens, and what is new gets its own.

So a policy of the earlier catalog can be evaluated and trained on the later run's data. Items of the earlier one that
the later run lacks are *withdrawn*: they stand behind all others, and no list holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.build import Built
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.growth import growth, writes_as
from blade_dist.catalog.layout import Layout
from blade_dist.catalog.more import with_new_tokens, write_items
from blade_dist.catalog.renewed import Renewed, names_of, renewed
from blade_dist.store.run import EARLIER

CATALOG, CODEC = "catalog", "codec"


@dataclass(frozen=True, eq=False)
class Earlier:
    """What the policies of an earlier run or export know."""

    catalog: Catalog
    codec: Codec
    before: Earlier | None = None
    """What this one is written as in its turn."""

    @classmethod
    def load(cls, folder: Path) -> Earlier:
        """From a folder that has both, as the data stage's and an export.

        Raises:
            FileNotFoundError: no such folder.
            UserError: it is damaged.
        """
        before = cls.load(folder / EARLIER) if (folder / EARLIER).is_dir() else None
        return cls(Catalog.load(folder / CATALOG), Codec.load(folder / CODEC), before)

    def save(self, folder: Path) -> None:
        """For :meth:`load`."""
        self.catalog.save(folder / CATALOG)
        self.codec.save(folder / CODEC)
        if self.before is not None:
            self.before.save(folder / EARLIER)

    def chain(self) -> Iterator[Earlier]:
        """This one, what it is written as, and so on."""
        yield self
        if self.before is not None:
            yield from self.before.chain()

    def is_kept(self, catalog: Catalog, codec: Codec) -> bool:
        """See :func:`blade_dist.catalog.growth.writes_as`."""
        return writes_as(self.codec, self.catalog, codec, catalog)

    def growth(self, catalog: Catalog, codec: Codec) -> tuple[Layout | None, Renewed]:
        """See :func:`blade_dist.catalog.growth.growth`."""
        return growth(self.codec, self.catalog, codec, catalog)

    def today(self, catalog: Catalog, titles: Sequence[str] | None = None) -> Renewed:
        """The earlier items, and behind them what is new in ``catalog``, in its order.

        ``titles``: as they were given, for each item on sale; None: as ``catalog`` has them.
        """
        rows = slice(catalog.on_sale)  # what is withdrawn stands behind
        given = catalog.titles[rows].tolist() if titles is None else titles
        return renewed(self.catalog, catalog.item_ids[rows].tolist(), given, names_of(catalog)[rows])

    def written(self, catalog: Catalog, titles: Sequence[str], most: int | None, seed: int, tokenizer: Path) -> Built:
        """A later catalog by the earlier codec.

        Args:
            catalog: the later run's items.
            titles: of each, as they were given.
            most: tokens of a title; longer ones are cut.
            seed: of the features of words.
            tokenizer: gets the tokenizer where it grows.

        Returns:
            The codec, and the catalog with what is withdrawn behind its items.

        Raises:
            UserError: see :func:`blade_dist.catalog.more.write_items`.
        """
        day = self.today(catalog, titles)
        made = write_items(self.codec, self.catalog, day, len(self.catalog), most, seed)
        codec = with_new_tokens(made, tokenizer)
        row = {item: number for number, item in enumerate(made.catalog.item_ids.tolist())}
        gone = np.flatnonzero(day.gone)
        order = np.concatenate([np.array([row[item] for item in catalog.item_ids], dtype=np.int64), gone])
        shown = None if codec.shown_tokens is None else codec.shown_tokens.take(order)
        return Built(
            replace(codec, item_tokens=codec.item_tokens.take(order), shown_tokens=shown),
            replace(
                made.catalog.take(order),
                popularity=np.append(catalog.popularity, np.zeros(len(gone), np.int64)),
                embeddings=None if catalog.embeddings is None else _with_zeros(catalog.embeddings, len(gone)),
                withdrawn=day.gone[order] if len(gone) else None,
            ),
            made.remarks,
        )


def _with_zeros(rows: NDArray[np.float32], more: int) -> NDArray[np.float32]:
    return np.concatenate([rows, np.zeros((more, rows.shape[1]), np.float32)])
