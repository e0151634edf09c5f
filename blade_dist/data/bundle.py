"""What the data stage leaves on disk, and the check that it fits the model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.data.assemble import SPLITS
from blade_dist.data.card import settings_of
from blade_dist.data.prompts import PromptTable
from blade_dist.data.sequence_table import SequenceTable
from blade_dist.errors import UserError
from blade_dist.settings import Config
from blade_dist.store.changes import LONGEST_VALUE, changes, made_otherwise
from blade_dist.store.context import context_setting
from blade_dist.store.files import read_json

SEQUENCES = "sequences.arrow"
"""File, in the data folder, of each user's training part."""

FREE = {"data.path", "data.items", "data.splits", "data.partition_rows", "model.path", "run.seed"}
"""Settings of the data stage that a later stage may be run with others of."""

ELSEWHERE = "or choose another run.dir, where data and what follows are made anew"
"""What there is to do for data of other settings."""


@dataclass(frozen=True, eq=False)
class DataBundle:
    """``{run.dir}/data``."""

    catalog: Catalog
    codec: Codec
    train: PromptTable
    validation: PromptTable
    test: PromptTable
    sequences: SequenceTable
    card: dict[str, Any]
    """``card.json``: settings, counts at each stage, fingerprints."""


def load_data(run_dir: Path) -> DataBundle:
    """Maps what :func:`blade_dist.data.prepare.prepare_data` wrote.

    Raises:
        UserError: nothing was prepared there, or by another version.
    """
    folder = run_dir / "data"
    if (card := read_card(folder)) is None:
        raise UserError(f"{folder}: no prepared data there; run the data stage first, or set the right run.dir")
    return DataBundle(
        catalog=Catalog.load(folder / "catalog"),
        codec=Codec.load(folder / "codec"),
        **{name: PromptTable.load(folder / f"{name}.arrow") for name in SPLITS},
        sequences=SequenceTable.load(folder / SEQUENCES),
        card=card,
    )


def load_matching_data(config: Config) -> DataBundle:
    """As :func:`load_data`, of data made with these ``data`` and ``codec`` settings (the raw files may have moved).

    Raises:
        UserError: nothing was prepared there, or with other settings.
    """
    data = load_data(config.run.dir)
    changed = {name: text for name, text in other_settings(config, data.card).items() if name not in FREE}
    if changed:
        typed = _as_typed(data.card["settings"], list(changed))
        raise made_otherwise(config.run.dir / "data", changed.values(), f"{typed}{ELSEWHERE}")
    return data


def _as_typed(there: Mapping[str, Any], names: list[str]) -> str:
    """How one setting that an earlier command was given is typed again; nothing where they are several, or no value."""
    section, *keys = names[0].split(".")
    value = there.get(names[0], there.get(section))
    for key in keys if isinstance(value, Mapping) else []:
        value = value.get(key) if isinstance(value, Mapping) else None
    if len(names) > 1 or not isinstance(value, bool | int | float | str) or len(str(value)) > LONGEST_VALUE:
        return ""
    return f"as by --set {names[0]}={shlex.quote(value) if isinstance(value, str) else json.dumps(value)}, "


def read_card(folder: Path) -> dict[str, Any] | None:
    """The data card, or None where there is none."""
    return read_json(folder / "card.json")


def other_settings(config: Config, card: dict[str, Any]) -> dict[str, str]:
    """Settings that the data were made with and that are others now: name -> ``name: 8 there, 7 now``."""
    return changes(card["settings"], settings_of(config))


def check_items(config: Config, items: int) -> None:
    """Raises UserError where a list (``lists.k``) is longer than the catalog."""
    if config.lists.k > items:
        raise UserError(f"lists.k: a list of {config.lists.k} items needs a larger catalog than the {items} items here")


def check_context(config: Config, longest_prompt: int, longest_list: int, title: LongestTitle | None = None) -> None:
    """Checks that the model's context holds the longest prompt and the longest list together.

    Args:
        config: ``model.path`` and ``model.build.context`` are read.
        longest_prompt: tokens.
        longest_list: tokens, separators and end included.
        title: the longest one, where titles are written.

    Raises:
        UserError: it doesn't; names a title that is much longer than the others.
    """
    context, setting = _context(config)
    if context is not None and longest_prompt + longest_list > context:
        needed = longest_prompt + longest_list
        if title is not None and title.tokens > 4 * title.median:
            most = max(1, context // (config.data.max_history + config.lists.k) - 1)
            raise UserError(
                f"data.max_title_tokens: the title of item {title.item!r} takes {title.tokens} tokens (half of all: "
                f"{title.median} at most), so that prompt and list need {needed}, and {setting} is {context}; set "
                f"data.max_title_tokens={most} to cut it"
            )
        raise UserError(
            f"data.max_history: the longest prompt ({longest_prompt} tokens) and the longest list ({longest_list} "
            f"tokens) need a context of {longest_prompt + longest_list}, and {setting} is {context}; lower it "
            f"({config.data.max_history}) or raise the context"
        )


@dataclass(frozen=True)
class LongestTitle:
    """The title that takes most tokens."""

    item: str
    tokens: int
    median: int
    """Of all titles."""


def longest_title(catalog: Catalog, codec: Codec) -> LongestTitle | None:
    """None where items are not written as titles."""
    if codec.kind != "title":
        return None
    lengths = codec.item_tokens.lengths
    item = int(lengths.argmax())
    return LongestTitle(str(catalog.item_ids[item]), int(lengths[item]), int(np.median(lengths)))


def check_sequences(config: Config, data: DataBundle) -> None:
    """Checks that the model's context holds what fine-tuning reads at once: a prompt's text, its history and a list.

    Raises:
        UserError: it doesn't.
    """
    codec, items = data.codec, config.data.max_history + config.lists.k
    longest = len(codec.prefix) + len(codec.suffix) + data.sequences.longest(codec.item_blocks.lengths, items)
    context, setting = _context(config)
    if context is not None and longest > context:
        raise UserError(
            f"data.max_history: fine-tuning reads up to data.max_history + lists.k = {items} items at once, which take "
            f"up to {longest} tokens, and {setting} is {context}; lower it ({config.data.max_history}) or raise the "
            "context"
        )


def _context(config: Config) -> tuple[int | None, str]:
    """The model's longest sequence, or None where its config has none; and the setting that says so."""
    if config.model.path is None:
        return config.model.build.context, "model.build.context"
    path = config.model.path / "config.json"
    if not path.is_file():
        raise UserError(f"model.path: {path} can't be read: there is no such file")
    found = context_setting(config.model.path)
    return (None, "") if found is None else (found[1], f"{found[0]} of {path}")
