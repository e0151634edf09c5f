"""The data stage: raw log -> filters -> splits -> catalog, codec, prompts."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blade_dist.catalog.build import Built, build_codec
from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.choice import CodecChoice
from blade_dist.catalog.codec import Codec
from blade_dist.catalog.earlier import Earlier
from blade_dist.catalog.legality import write_trie
from blade_dist.catalog.semantic_id import item_features
from blade_dist.catalog.tokenizer import without_items
from blade_dist.data.assemble import SPLITS, Assembler, HeldOut, Source, SplitName
from blade_dist.data.bundle import (
    ELSEWHERE,
    SEQUENCES,
    DataBundle,
    check_context,
    check_items,
    load_data,
    longest_title,
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
from blade_dist.data.census import (
    core_choices,
    describe_users,
    few_prompts,
    freed_by_min_history,
    items_hints,
    one_user_hints,
    ratings_hints,
    short_windows,
    wasted,
)
from blade_dist.data.formats import FORMATS
from blade_dist.data.grown_from import describe, earlier_of, write_as_earlier
from blade_dist.data.held_rows import HeldName, HeldRows, check_once, check_targets
from blade_dist.data.overview import describe_times, example_of_core, times_hints
from blade_dist.data.partition import ReadCounts, read_sequences
from blade_dist.data.prompts import PromptTable, write_prompts
from blade_dist.data.raw_files import changed_files, raw_files
from blade_dist.data.remarks import Remarks
from blade_dist.data.sequence_table import SequenceTable, write_sequences
from blade_dist.data.sequences import SequenceStore, k_core
from blade_dist.data.split import Batch
from blade_dist.data.split_file import SplitFile
from blade_dist.data.times import say_units
from blade_dist.data.usable import build_catalog, say_alike_groups, usable_items
from blade_dist.data.user_ids import joined, say_alike
from blade_dist.data.whole_catalog import LeftOut, leave_out
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.store.base_files import check_kind
from blade_dist.store.changes import made_otherwise
from blade_dist.store.files import whole_folder, write_json
from blade_dist.store.fingerprint import fingerprint
from blade_dist.store.run import EARLIER, FEATURES

__all__ = ["DataBundle", "load_data", "prepare_data"]

_LOG = logging.getLogger(__name__)

PHASES = {
    "reading the log": 4,
    "filtering": 1,
    "holding out": 1,
    "writing prompts": 2,
    "writing items as tokens": 3,
    "counting": 1,
}
"""What is done in turn, and its share of the time."""


def prepare_data(config: Config, doing: Callable[[str], object] = str) -> None:
    """Writes ``{run.dir}/data``, whole or not at all; skips what is there with the same settings.

    ``doing``: is told each of :data:`PHASES` when it begins.

    Raises:
        UserError: data of other settings or something else there, a missing or unreadable file (with the line), a
            missing column, nothing left after the filters, lists longer than the catalog, prompts longer than the
            model's context.
    """
    folder = config.run.dir / "data"
    if config.model.path is not None:
        check_kind(config.model.path)
    if folder.exists():
        _reuse(config, folder)
        return
    started = time.monotonic()
    with whole_folder(folder) as scratch:
        card = {"raw_files": raw_files(config.data)} | _prepare(config, scratch, doing)
        card["settings_fingerprint"] = fingerprint(settings_of(config))
        write_json(scratch / "card.json", card)
    prompts = ", ".join(f"{card['prompts'][name]} {name}" for name in SPLITS)
    seconds = time.monotonic() - started
    _LOG.info("%s: %d items, prompts: %s; %.1f s", folder, card["catalog"]["items"], prompts, seconds)


def _reuse(config: Config, folder: Path) -> None:
    card = read_card(folder)
    if card is None:
        raise UserError(
            f"{folder} is no prepared data, card.json is missing: choose another run.dir, or move what is there away"
        )
    changed = other_settings(config, card)
    if changed.keys() - {"data.partition_rows"}:  # which changes no data
        raise made_otherwise(folder, changed.values(), ELSEWHERE)
    SequenceTable.load(folder / SEQUENCES)
    codec = Codec.load(folder / "codec")
    check_items(config, len(codec.item_tokens))
    check_context(config, card["tokens"]["longest_prompt"], codec.max_list_tokens(config.lists.k))
    _LOG.info("%s: already there with these settings, skipped", folder)
    for line in changed_files(card.get("raw_files", {}), config.data):
        _LOG.warning("data: warning: %s, and %s stays as it is: choose another run.dir to read it anew", line, folder)


@dataclass(frozen=True, eq=False)
class _Filtered:
    """The log after every filter."""

    items: pa.Table
    repeated_items: int
    raw: SequenceStore
    """Before ``data.k_core``."""
    store: SequenceStore
    read: ReadCounts
    counts: NDArray[np.int64]
    """Interactions with each row of ``items``; not all 0."""
    left_out: LeftOut
    remarks: Remarks
    scratch: Path


def _prepare(config: Config, folder: Path, doing: Callable[[str], object]) -> dict[str, Any]:
    """Everything but the card, which it returns."""
    earlier, parts = earlier_of(config), folder / "parts"
    parts.mkdir()
    doing("reading the log")
    filtered = _filter(config, folder, parts, doing)
    doing("holding out")
    split, counts = _split(config, filtered)
    check_items(config, int((counts > 0).sum()))
    assembler = Assembler(config.data, config.lists.exclude_history, split, counts, config.train.prompts_from)
    items = filtered.items.take(pa.array(assembler.kept_items))
    catalog = build_catalog(items, assembler.popularity())
    say_alike_groups(catalog.group_names, filtered.remarks)
    write_items_without_group(catalog, folder)
    doing("writing prompts")
    sources = dict.fromkeys(get_args(Source), 0)
    batches = {"train": _counted(assembler, sources), **{name: assembler.held_out(name) for name in get_args(HeldName)}}
    for name in SPLITS:
        if not write_prompts(folder / f"{name}.arrow", batches[name]):
            raise UserError(
                f"the {name} split is empty: {why_empty(config.data, filtered.store)}; {_losses(config, filtered)}"
            )
    write_sequences(folder / SEQUENCES, assembler.sequences())
    tables = {name: PromptTable.load(folder / f"{name}.arrow") for name in SPLITS}
    sequences = SequenceTable.load(folder / SEQUENCES)
    doing("writing items as tokens")
    choice, built = _written(config, earlier, catalog, items.column("title").to_pylist(), parts)
    codec, catalog = built.codec, built.catalog
    for line in built.remarks:
        filtered.remarks.hint(line)
    catalog.save(folder / "catalog")
    codec.save(folder / "codec")
    write_trie(codec, folder / "trie")
    if choice.one_token:
        features = item_features(catalog, config.codec.embedder, config.run.seed)
        np.save(folder / FEATURES, features, allow_pickle=False)
    doing("counting")
    longest = max(table.longest(codec) for table in tables.values())
    check_context(config, longest, codec.max_list_tokens(config.lists.k), longest_title(catalog, codec))
    card = _counts(config, filtered, split, catalog, tables, sequences) | {
        "training_prompts": sources,
        "codec": choice.describe(codec),
        "tokens": describe_codec(codec, config.lists.k) | {"longest_prompt": longest},
        "settings": settings_of(config),
        "fingerprints": {"catalog": catalog.fingerprint(), "codec": codec.fingerprint()}
        | {name: table.fingerprint() for name, table in tables.items()}
        | {"sequences": sequences.fingerprint()},
    }
    if earlier is not None:
        earlier.save(folder / EARLIER)
        card["grown"] = {"from": str(config.codec.grown_from)} | describe(earlier, catalog)
    shutil.rmtree(parts)
    return card


def _written(
    config: Config, earlier: Earlier | None, catalog: Catalog, titles: list[str], scratch: Path
) -> tuple[CodecChoice, Built]:
    """The items' tokens; ``titles``: as they were given."""
    if earlier is not None:
        choice = CodecChoice.like(earlier.codec, {"codec.grown_from": f"as in {config.codec.grown_from}"})
        return choice, write_as_earlier(config, earlier, catalog, titles, scratch / "tokenizer")
    choice = CodecChoice.of(config.codec, config.model.path is not None, len(catalog))
    with tempfile.TemporaryDirectory() as name:
        tokenizer = config.codec.tokenizer or config.model.path
        if tokenizer is not None and config.model.path is None:
            tokenizer = without_items(tokenizer, Path(name) / "tokenizer")
        most = config.data.max_title_tokens
        return choice, build_codec(catalog, config.codec, choice, tokenizer, config.run.seed, most)


def _counted(assembler: Assembler, counts: dict[Source, int]) -> Iterator[Batch]:
    """The training prompts, source after source; ``counts`` has how many of each when all are read."""
    for source in assembler.sources:
        for batch in assembler.training(source):
            counts[source] += len(batch[0])
            yield batch


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
    left = users_left(filtered.store)
    users = describe_users(filtered.read, left, len(sequences), asked_users, filtered.left_out.users)
    freed = sum(freed_by_min_history(config.data, part.items.lengths, ends) for part, ends in split.parts())
    log = describe_log(filtered.read, filtered.counts, filtered.store, filtered.left_out.interactions)
    times = describe_times(filtered.read, filtered.store)
    return {
        "log": log | {"trained_on": int(catalog.popularity.sum())},
        "users": users,
        "items": describe_items(filtered.read, filtered.counts, catalog.popularity),
        "catalog": describe_catalog(catalog) | {"ids_repeated_in_the_items_file": filtered.repeated_items},
        "prompts": {name: len(table) for name, table in tables.items()},
        "sequences": len(sequences),
        "test_targets": {"all": asked, "cold": cold},
        "split": split.describe(),
        "times": times,
        "examples": _examples(filtered),
        "remarks": filtered.remarks.describe(),
        "warnings": wasted(config.data, users, freed)
        + _hints(config, filtered, split, left, len(tables["train"]), times),
    }


def _examples(filtered: _Filtered) -> dict[str, str]:
    """One of what each filter dropped, by the names of the counts of ``log``."""
    core = example_of_core(filtered.raw, filtered.store, filtered.counts, filtered.items)
    more = {"dropped_by_k_core": core, "with_all_items": filtered.left_out.example}
    return filtered.read.examples | {name: example for name, example in more.items() if example}


def _hints(
    config: Config, filtered: _Filtered, split: HeldOut, left: int, prompts: int, times: dict[str, Any]
) -> list[str]:
    """Which setting is wrong for this log, and which value would keep more."""
    data, scratch = config.data, filtered.scratch
    parts = [(part.items.lengths, ends) for part, ends in split.parts()]
    lengths, ends = (np.concatenate([pair[number] for pair in parts]) for number in (0, 1))
    visited = config.train.steps * config.train.prompts_per_step
    return [
        *core_choices(data, filtered.raw, left + filtered.left_out.users, len(filtered.items), scratch),
        *items_hints(filtered.read),
        *one_user_hints(filtered.read),
        *ratings_hints(data, filtered.read),
        *short_windows(data, lengths),
        *(few_prompts(data, ends, prompts, visited) if config.train.prompts_from == "train" else []),
        *times_hints(times),
    ]


def _split(config: Config, filtered: _Filtered) -> tuple[HeldOut, NDArray[np.int64]]:
    """What is held out; and how often each item is in the log or, in a ready split, held out."""
    data, exclude = config.data, config.lists.exclude_history
    if data.splits is None:
        return SplitByRule(data, exclude, filtered.store), filtered.counts
    file, counts = SplitFile(data.splits, data), filtered.counts.copy()
    held: dict[HeldName, HeldRows] = {name: file.rows(name, filtered.items) for name in ("validation", "test")}
    held = {name: replace(rows, users=joined(rows.users, filtered.raw, file.remarks)) for name, rows in held.items()}
    for name, rows in held.items():
        check_once(rows, name, data.test_windows if name == "test" else 1)
        check_targets(rows, exclude, data.max_history)
        for part in (rows.history, rows.targets):
            counts += np.bincount(part.flat, minlength=len(counts))
    filtered.remarks.add_of(file.remarks, "data.splits")
    return SplitByRows(held, filtered.store, data.repeats, data.max_history, file.train_rows), counts


def _filter(config: Config, folder: Path, parts: Path, doing: Callable[[str], object]) -> _Filtered:
    data = config.data
    log = FORMATS[data.source](data, config.run.seed, folder)
    items, repeated = usable_items(log.items, log.remarks)
    read_from = replace(log, items=items)
    raw, read = read_sequences(read_from, data.min_rating, data.repeats, data.partition_rows, parts)
    doing("filtering")
    say_units(log.remarks)
    say_alike(raw, log.remarks)
    store = raw.copied(parts / "filtered")
    counts = k_core(store, data.core, len(items))
    counts, left_out = leave_out(store, counts, config.lists.k, config.lists.exclude_history)
    if left_out.users:
        counts = k_core(store, data.core, len(items))
    filtered = _Filtered(items, repeated, raw, store, read, counts, left_out, log.remarks, parts)
    if not filtered.counts.any():
        raise UserError(f"{config.data.path or 'data.synthetic'}: no interaction is left: {_losses(config, filtered)}")
    return filtered


def _losses(config: Config, filtered: _Filtered) -> str:
    lost = filter_losses(config.data, filtered.read, filtered.counts)
    remedy = core_choices(config.data, filtered.raw, users_left(filtered.store), len(filtered.items), filtered.scratch)
    spelt = []
    if 2 * filtered.read.without_title > filtered.read.read:
        other = filtered.items.column("item")[0].as_py()
        spelt = [f"the log has {filtered.read.examples['without_title']}, and the items have {other!r}"]
    return "; ".join([lost, *spelt, *remedy])
