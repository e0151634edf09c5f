"""The earlier run that ``codec.grown_from`` names: what its policies know, and what of it the later run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blade_dist.catalog.build import Built
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.earlier import Earlier
from blade_dist.data.bundle import load_data
from blade_dist.data.card import settings_of
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.store.changes import changes

NAMED = 3
"""New items that the card names."""


def earlier_of(config: Config) -> Earlier | None:
    """None where the setting is.

    Raises:
        UserError: no prepared data in that folder, or items that are written as other settings of ``codec`` say.
    """
    if (run := config.codec.grown_from) is None:
        return None
    data = load_data(run)
    there, now = (dict(tree["codec"]) for tree in (data.card["settings"], settings_of(config)))
    there.pop("grown_from", None)
    now.pop("grown_from")
    if changed := list(changes({"codec": there}, {"codec": now}).values()):
        raise UserError(
            f"codec.grown_from: {run} writes its items by other settings: {changed[0]}; set them as there, or leave "
            "codec.grown_from out"
        )
    return Earlier(data.catalog, data.codec)


def write_as_earlier(config: Config, earlier: Earlier, catalog: Catalog, titles: list[str], tokenizer: Path) -> Built:
    """See :meth:`blade_dist.catalog.earlier.Earlier.written`.

    Raises:
        UserError: none of the items is one of the earlier run's, or their tokens have no room.
    """
    if not set(catalog.item_ids) & set(earlier.catalog.item_ids):
        raise UserError(
            f"codec.grown_from: none of the {len(catalog)} items here, as {catalog.item_ids[0]!r}, is one of "
            f"{config.codec.grown_from}, whose ids are written as {earlier.catalog.item_ids[0]!r}"
        )
    return earlier.written(catalog, titles, config.data.max_title_tokens, config.run.seed, tokenizer)


def describe(config: Config, earlier: Earlier, catalog: Catalog) -> dict[str, Any]:
    """For the card: which items the earlier policies know, and the codec that they have."""
    day = earlier.today(catalog)
    return {
        "from": str(config.codec.grown_from),
        "codec": earlier.codec.fingerprint(),
        "known": catalog.on_sale - day.new,
        "new": day.new,
        "first_new": day.catalog.item_ids[day.known :][:NAMED].tolist(),
        "withdrawn": int(np.count_nonzero(day.gone)),
    }


def of_new(grown: dict[str, Any]) -> str:
    """How many items of :func:`describe` are new, and which first."""
    count, first = grown["new"], ", ".join(grown["first_new"])
    return f"{count:,} are new" + (f" ({first}{', ...' * (count > len(grown['first_new']))})" if count else "")
