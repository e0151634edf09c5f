"""The data stage: raw log -> filters -> splits -> catalog, codec, prompts."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from blade_dist.catalog.build import build_codec
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.legality import write_trie
from blade_dist.catalog.semantic_id import item_features
from blade_dist.data.assemble import SPLITS, Assembler, HeldOut, SplitName
from blade_dist.data.bundle import (
    SEQUENCES,
    DataBundle,
    check_context,
    check_items,
    load_data,
    made_otherwise,
    other_settings,
    read_card,
)
from blade_dist.data.by_rows import SplitByRows
from blade_dist.data.by_rule import SplitByRule
from blade_dist.data.card import (
    describe_catalog,
    describe_codec,
    describe_items,
    describe_log,
    filter_losses,
    settings_of,
    users_left,
    why_empty,
    write_items_without_group,
)
from blade_dist.data.census import describe_users, freed_by_min_history, wasted
from blade_dist.data.formats import FORMATS
from blade_dist.data.held_rows import HeldName, HeldRows, check_once, check_targets
from blade_dist.data.partition import ReadCounts, read_sequences
from blade_dist.data.prompts import PromptTable, write_prompts
from blade_dist.data.rawlog import quiet_ray_data
from blade_dist.data.sequence_table import SequenceTable, write_sequences
from blade_dist.data.sequences import SequenceStore, k_core
from blade_dist.data.split_file import SplitFile
from blade_dist.data.usable import build_catalog, usable_items
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.store.files import whole_folder, write_json
from blade_dist.store.fingerprint import fingerprint
from blade_dist.store.run import FEATURES

__all__ = ["DataBundle", "load_data", "prepare_data"]

_LOG = logging.getLogger(__name__)


def prepare_data(config: Config) -> None:
    """Writes ``{run.dir}/data``, whole or not at all; skips what is there with the same settings. Ray must be up.

    Raises:
        UserError: data of other settings or something else there, a missing or unreadable file (with the line), a
            missing column, nothing left after the filters, lists longer than the catalog, prompts longer than the
            model's context.
        RuntimeError: Ray is not initialised.
    """
    folder = config.run.dir / "data"
    settings = fingerprint(settings_of(config))
    if folder.exists():
        _reuse(config, folder, settings)
        return
    if not ray.is_initialized():
        raise RuntimeError("prepare_data needs Ray: call ray.init first")
    started = time.monotonic()
    with whole_folder(folder) as scratch:
        card = _prepare(config, scratch) | {"settings_fingerprint": settings}
        write_json(scratch / "card.json", card)
    prompts = ", ".join(f"{card['prompts'][name]} {name}" for name in SPLITS)
    seconds = time.monotonic() - started
    _LOG.info("%s: %d items, prompts: %s; %.1f s", folder, card["catalog"]["items"], prompts, seconds)


def _reuse(config: Config, folder: Path, settings: str) -> None:
    card = read_card(folder)
    if card is None:
        raise UserError(f"{folder} is no prepared data, card.json is missing: delete it or choose another run.dir")
    if card["settings_fingerprint"] != settings:
        raise made_otherwise(folder, list(other_settings(config, card).values()))
    SequenceTable.load(folder / SEQUENCES)
    codec = Codec.load(folder / "codec")
    check_items(config, len(codec.item_tokens))
    check_context(config, card["tokens"]["longest_prompt"], codec.max_list_tokens(config.lists.k))
    _LOG.info("%s: already there with these settings, skipped", folder)


@dataclass(frozen=True, eq=False)
class _Filtered:
    """The log after every filter."""

    items: pa.Table
    repeated_items: int
    store: SequenceStore
    read: ReadCounts
    counts: NDArray[np.int64]
    """Interactions with each row of ``items``; not all 0."""


def _prepare(config: Config, folder: Path) -> dict[str, Any]:
    """Everything but the card, which it returns."""
    parts = folder / "parts"
    parts.mkdir()
    filtered = _filter(config, folder, parts)
    split, counts = _split(config, filtered)
    check_items(config, int((counts > 0).sum()))
    assembler = Assembler(config.data, config.lists.exclude_history, split, counts)
    catalog = build_catalog(filtered.items.take(pa.array(assembler.kept_items)), assembler.popularity())
    catalog.save(folder / "catalog")
    write_items_without_group(catalog, folder)
    for name in SPLITS:
        if not write_prompts(folder / f"{name}.arrow", assembler.prompts(name)):
            raise UserError(
                f"the {name} split is empty: {why_empty(config.data, filtered.store)}; {_losses(config, filtered)}"
            )
    write_sequences(folder / SEQUENCES, assembler.sequences())
    tables = {name: PromptTable.load(folder / f"{name}.arrow") for name in SPLITS}
    sequences = SequenceTable.load(folder / SEQUENCES)
    choice = CodecChoice.of(config.codec, config.model.path is not None, len(catalog))
    codec = build_codec(catalog, config.codec, choice, config.codec.tokenizer or config.model.path, config.run.seed)
    codec.save(folder / "codec")
    write_trie(codec, folder / "trie")
    if choice.one_token:
        features = item_features(catalog, config.codec.embedder, config.run.seed)
        np.save(folder / FEATURES, features, allow_pickle=False)
    longest = max(table.longest(codec) for table in tables.values())
    check_context(config, longest, codec.max_list_tokens(config.lists.k))
    card = _counts(config, filtered, split, catalog, tables, sequences) | {
        "codec": choice.describe(codec),
        "tokens": describe_codec(codec) | {"longest_prompt": longest},
        "settings": settings_of(config),
        "fingerprints": {"catalog": catalog.fingerprint(), "codec": codec.fingerprint()}
        | {name: table.fingerprint() for name, table in tables.items()}
        | {"sequences": sequences.fingerprint()},
    }
    shutil.rmtree(parts)
    return card


def _counts(
    config: Config,
    filtered: _Filtered,
    split: HeldOut,
    catalog: Catalog,
    tables: Mapping[SplitName, PromptTable],
    sequences: SequenceTable,
) -> dict[str, Any]:
    """The card's counts, and what is to be warned of."""
    cold, asked = tables["test"].cold_targets(catalog.popularity)
    if cold == asked:
        raise UserError(
            f"{config.data.splits or 'the test split'}: none of the {asked} held-out test items is ever trained on, so "
            "that no list can hit one; hold out items that the training part of the log has"
        )
    asked_users = {name: table.users() for name, table in tables.items()}
    users = describe_users(filtered.read, users_left(filtered.store), len(sequences), asked_users)
    freed = sum(freed_by_min_history(config.data, part.items.lengths, ends) for part, ends in split.parts())
    log = describe_log(filtered.read, filtered.counts, filtered.store)
    return {
        "log": log | {"trained_on": int(catalog.popularity.sum())},
        "users": users,
        "items": describe_items(filtered.read, filtered.counts, catalog.popularity),
        "catalog": describe_catalog(catalog) | {"ids_repeated_in_the_items_file": filtered.repeated_items},
        "prompts": {name: len(table) for name, table in tables.items()},
        "sequences": len(sequences),
        "test_targets": {"all": asked, "cold": cold},
        "split": split.describe(),
        "warnings": wasted(config.data, users, freed),
    }


def _split(config: Config, filtered: _Filtered) -> tuple[HeldOut, NDArray[np.int64]]:
    """What is held out; and how often each item is in the log or, in a ready split, held out."""
    data, exclude = config.data, config.lists.exclude_history
    if data.splits is None:
        return SplitByRule(data, exclude, filtered.store), filtered.counts
    file, counts = SplitFile(data.splits, data.group_separator), filtered.counts.copy()
    held: dict[HeldName, HeldRows] = {name: file.rows(name, filtered.items) for name in ("validation", "test")}
    for name, rows in held.items():
        check_once(rows, name, data.test_windows if name == "test" else 1)
        check_targets(rows, exclude, data.max_history)
        for part in (rows.history, rows.targets):
            counts += np.bincount(part.flat, minlength=len(counts))
    return SplitByRows(held, filtered.store, data.repeats, data.max_history, file.train_rows), counts


def _filter(config: Config, folder: Path, parts: Path) -> _Filtered:
    data = config.data
    with quiet_ray_data():
        log = FORMATS[data.source](data, config.run.seed, folder)
        items, repeated = usable_items(log.items)
        store, read = read_sequences(
            replace(log, items=items), data.min_rating, data.repeats, data.partition_rows, parts
        )
    filtered = _Filtered(items, repeated, store, read, k_core(store, data.core, len(items)))
    if not filtered.counts.any():
        raise UserError(f"no interaction is left: {_losses(config, filtered)}")
    return filtered


def _losses(config: Config, filtered: _Filtered) -> str:
    return filter_losses(config.data, filtered.read, filtered.counts)
