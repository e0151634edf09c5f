"""Writes an export whose catalog is that of the day: no training, no engine, and the policy stays what it was."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from blade_dist import __version__
from blade_dist.batches import Ragged
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import room_for_all, save_trie
from blade_dist.catalog.more import Written, day_features, with_new_tokens, write_items
from blade_dist.catalog.renewed import Renewed
from blade_dist.catalog.rules import make_rules
from blade_dist.catalog.tokenizer import load_tokenizer
from blade_dist.catalog.trie import build_trie
from blade_dist.errors import UserError
from blade_dist.serving.export import CATALOG, CODEC, TRIE, write_generation
from blade_dist.serving.grown_weights import copy_policy
from blade_dist.serving.manifest import CARD, Day, Manifest, checksums
from blade_dist.serving.opened import OpenedExport
from blade_dist.serving.text import ItemText, Turn, item_text, sent_turns
from blade_dist.store.exported import MANIFEST
from blade_dist.store.files import read_json, whole_folder, write_json, write_text
from blade_dist.store.policy import STAMP, weights_digest

GROWN = "grown"
"""Folder of a grown tokenizer, until the codec is saved with it."""
TRIED = 1000
"""Items that are written as text, to see whether the tokens are those of the training."""
TOGETHER = 4
"""Of them, side by side in a history."""
HEADING = "## The catalog of the day"


@dataclass(frozen=True)
class RenewedExport:
    """What was made."""

    manifest: Manifest
    told: float | None
    """How much of the items' vectors the words tell, 0 to 1, where new items got vectors."""
    remarks: list[str]
    """What was changed in titles."""


def check_room(manifest: Manifest, day: Renewed) -> None:
    """Raises UserError where no list could be written of what is on sale, or a rule names what is gone."""
    items, k = day.catalog.on_sale, manifest.lists.k
    if items < k:
        raise UserError(f"--items: {items} items are on sale, fewer than the {k} of a list; give all items of the day")
    room_for_all(items, k, make_rules(manifest.lists, day.catalog))


def write_renewed(out: Path, opened: OpenedExport, day: Renewed) -> RenewedExport:
    """Writes the folder, whole or not at all; it takes the place of an export that is there.

    Args:
        out: the folder.
        opened: the export that it is made from.
        day: its catalog with the items of the day.

    Raises:
        UserError: see :func:`blade_dist.catalog.more.write_items` and
            :func:`blade_dist.serving.grown_weights.copy_policy`.
    """
    manifest, trained = opened.manifest, opened.trained
    written = write_items(opened.codec, opened.catalog, day, trained.items, manifest.max_title_tokens, manifest.seed)
    _check_longest(manifest, written)
    with whole_folder(out) as folder:
        files = [opened.folder / name for name in manifest.files if "/" not in name]
        features = partial(day_features, opened.catalog, day, trained.items, manifest.seed)
        told = copy_policy(files, folder, opened.codec, written.layout, trained.items, features)
        codec = with_new_tokens(written, folder / GROWN)
        written.catalog.save(folder / CATALOG)
        codec.save(folder / CODEC)
        shutil.rmtree(folder / GROWN, ignore_errors=True)
        save_trie(build_trie(codec.item_blocks), codec, folder / TRIE)
        weights = manifest.weights if told is None else weights_digest(folder)
        _stamp(folder, codec.fingerprint(), weights)
        write_generation(folder, codec, manifest.decode, manifest.beams, manifest.lists.k)
        made = manifest.model_copy(
            update={
                "schema_version": Manifest.model_fields["schema_version"].default,
                "blade_dist": __version__,
                "weights": weights,
                "codec": codec.fingerprint(),
                "catalog": written.catalog.fingerprint(),
                **_text(manifest, folder, codec, written.catalog),
                "trained": trained,
                "day": _day(opened.catalog, written.catalog, day, trained.items),
                "files": checksums(folder),
            }
        )
        write_json(folder / MANIFEST, made.written())
        write_text(folder / CARD, _card(opened.folder, made))
    return RenewedExport(made, told, written.remarks)


def _check_longest(manifest: Manifest, written: Written) -> None:
    """Raises UserError where the model has no room for an item of the history beside the longest list."""
    codec, catalog, k = written.codec, written.catalog, manifest.lists.k
    longest = int(codec.item_blocks.lengths.argmax())
    needed = codec.max_prompt_tokens(1) + codec.max_list_tokens(k)
    if codec.kind == "title" and needed > manifest.context:
        raise UserError(
            f"--items: the title of item {catalog.item_ids[longest]!r} takes {len(codec.item_blocks[longest])} tokens; "
            f"with such, an item and a list of {k} take {needed} of the model's {manifest.context} tokens: shorten it"
        )


def _stamp(folder: Path, codec: str, weights: str) -> None:
    """The checkpoint's own stamp, where it has one, is of the codec and the weights that are there now."""
    if (stamp := read_json(folder / STAMP)) is not None:
        write_json(folder / STAMP, stamp | {"codec": codec, "weights": weights})


def _text(manifest: Manifest, folder: Path, codec: Codec, catalog: Catalog) -> dict[str, ItemText | list[Turn] | None]:
    """``text`` and ``turns`` as the export has them, where these give the tokens of new titles too."""
    if manifest.text is None:
        return {"text": None, "turns": None}
    some = np.unique(np.linspace(0, len(catalog) - 1, TRIED).astype(np.int32))[::-1]
    some = np.random.default_rng(manifest.seed).permutation(some)
    histories = Ragged.of([some[first : first + TOGETHER] for first in range(0, len(some), TOGETHER)])
    tokenizer = load_tokenizer(folder)
    text = item_text(tokenizer, codec, catalog, manifest.prompt, histories)
    return {"text": text, "turns": sent_turns(tokenizer, codec, catalog, manifest.turns or [], text, histories)}


def _day(before: Catalog, now: Catalog, day: Renewed, trained: int) -> Day:
    gone = day.gone
    # a title that was cut is the same one only once it is cut again
    renamed = np.flatnonzero(before.titles != now.titles[: day.known])
    changed = np.union1d(renamed, day.regrouped)
    return Day(
        on_sale=int((~gone).sum()),
        new=int((~gone[trained:]).sum()),
        changed=int((~gone[changed]).sum()),
        withdrawn=int(gone.sum()),
    )


def _card(source: Path, manifest: Manifest) -> str:
    """The model card, with what became of the catalog at its end."""
    day, trained = manifest.day, manifest.trained
    assert day is not None
    assert trained is not None
    text = (source / CARD).read_text(encoding="utf-8") if (source / CARD).is_file() else ""
    return (
        f"{text.partition(HEADING)[0].rstrip()}\n\n{HEADING}\n\n"
        f"This page tells of the training, and of its {trained.items:,} items. Today {day.on_sale:,} are on sale. "
        f"{day.new:,} of them came after\nthe training: they are recommended by their titles and groups alone. "
        f"{day.withdrawn:,} are withdrawn: a history may name them,\nand no list holds them.\n"
    )
