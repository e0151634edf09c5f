"""What ``codec.grown_from`` names: the items that its policies know, and which of them the later run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blade_dist.catalog.build import Built
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.earlier import CATALOG, CODEC, Earlier
from blade_dist.catalog.prompt_text import PromptText
from blade_dist.catalog.tokenizer import encode_prompt
from blade_dist.data.bundle import read_card
from blade_dist.data.card import settings_of
from blade_dist.errors import UserError
from blade_dist.settings import CodecSettings, Config
from blade_dist.store.changes import changes
from blade_dist.store.exported import MANIFEST, is_export, read_export
from blade_dist.store.whole import damage

NAMED = 3
"""New items that the card names."""


def earlier_of(config: Config) -> Earlier | None:
    """None where the setting is.

    Raises:
        UserError: no prepared data and no export in that folder, or items that are written as other settings of
            ``codec`` say.
    """
    if (folder := config.codec.grown_from) is None:
        return None
    if is_export(folder):
        return _of_export(folder, config.codec)
    if (card := read_card(folder / "data")) is None:
        raise UserError(
            f"codec.grown_from: {folder}: no prepared data there, and no export; name a run.dir whose data stage is "
            "done, or a folder that `blade-dist export` or `blade-dist catalog` wrote"
        )
    there, now = (dict(tree["codec"]) for tree in (card["settings"], settings_of(config)))
    there.pop("grown_from", None)
    now.pop("grown_from")
    if changed := list(changes({"codec": there}, {"codec": now}).values()):
        raise UserError(
            f"codec.grown_from: {folder} writes its items by other settings: {changed[0]}; set them as there, or leave "
            "codec.grown_from out"
        )
    return Earlier.load(folder / "data")


def _of_export(folder: Path, settings: CodecSettings) -> Earlier:
    """An export keeps no settings: what they make of an item and of a prompt is compared."""
    if what := _damage(folder, read_export(folder).get("files")):
        raise UserError(f"codec.grown_from: {folder}/{what}; copy the export again, as a whole")
    earlier = Earlier.load(folder)
    codec = earlier.codec
    if settings.kind not in (None, codec.kind):
        raise _otherwise(folder, "kind", f"{codec.kind} there, {settings.kind} here", codec.kind)
    levels = int(codec.item_tokens.lengths.min())
    if codec.kind == "semantic_id" and settings.levels not in (None, levels):
        raise _otherwise(folder, "levels", f"{levels} there, {settings.levels} here", str(levels))
    if not _same_prompt(codec, settings):
        raise UserError(
            f"codec.grown_from: the prompts of {folder} have other tokens than those of codec.prompt, codec.format and "
            "codec.system here; set them as its model card has them"
        )
    return earlier


def _damage(folder: Path, files: Any) -> str | None:
    """What is wrong with the items, see :func:`blade_dist.store.whole.damage`; ``files``: of the export's manifest."""
    parts = (f"{CATALOG}/", f"{CODEC}/")
    try:
        known = {name: of for name, of in files.items() if name.startswith(parts)}
        return damage(folder, known) if known else f"{MANIFEST} names no items"
    except (AttributeError, KeyError, TypeError):
        return f"{MANIFEST} is damaged: files"


def _otherwise(folder: Path, name: str, how: str, right: str) -> UserError:
    return UserError(f"codec.grown_from: {folder} writes its items otherwise: codec.{name}: {how}; set {right}")


def _same_prompt(codec: Codec, settings: CodecSettings) -> bool:
    text = PromptText.of(codec.tokenizer, settings)
    around = text.prefix(codec.tokenizer), encode_prompt(codec.tokenizer, text.after)
    return around == (codec.prefix.tolist(), codec.suffix.tolist())


def write_as_earlier(config: Config, earlier: Earlier, catalog: Catalog, titles: list[str], tokenizer: Path) -> Built:
    """See :meth:`blade_dist.catalog.earlier.Earlier.written`.

    Raises:
        UserError: none of the items is one of the earlier ones, or their tokens have no room.
    """
    if not set(catalog.item_ids) & set(earlier.catalog.item_ids):
        raise UserError(
            f"codec.grown_from: none of the {len(catalog)} items here, as {catalog.item_ids[0]!r}, is one of "
            f"{config.codec.grown_from}, whose ids are written as {earlier.catalog.item_ids[0]!r}"
        )
    return earlier.written(catalog, titles, config.data.max_title_tokens, config.run.seed, tokenizer)


def describe(earlier: Earlier, catalog: Catalog) -> dict[str, Any]:
    """Which items of a later catalog the earlier policies know."""
    day = earlier.today(catalog)
    return {
        "known": catalog.on_sale - day.new,
        "new": day.new,
        "first_new": day.catalog.item_ids[day.known :][:NAMED].tolist(),
        "withdrawn": int(np.count_nonzero(day.gone)),
    }


def of_new(grown: dict[str, Any]) -> str:
    """How many items of :func:`describe` are new, and which first."""
    count, first = grown["new"], ", ".join(grown["first_new"])
    return f"{count:,} are new" + (f" ({first}{', ...' * (count > len(grown['first_new']))})" if count else "")
