"""The data card: what was read, what was dropped and by which filter, what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.codec import Codec
from blade_dist.data.partition import ReadCounts
from blade_dist.data.sequences import SequenceStore
from blade_dist.data.split import leave_last, windows
from blade_dist.settings import Config, DataSettings
from blade_dist.store.files import write_text

NAMED = 3
"""Items that a message names."""

WITHOUT_GROUP = "items_without_group.txt"
"""File, in the data folder, of what the message does not name."""


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that the data depend on; equal ones make equal data."""
    # Where no held-out item was seen before, what lists may hold changes nothing.
    again = config.data.repeats == "all" or config.data.splits is not None
    prompts_from = config.train.prompts_from
    # a value that changes nothing is not named: data of versions that did not know the setting are still these
    changing = {"lists.exclude_history": config.lists.exclude_history} if again else {}
    plain = {"format", "system"} if config.codec.format == "plain" else set()
    plain |= {"grown_from"} if config.codec.grown_from is None else set()
    return (changing if prompts_from == "train" else changing | {"train.prompts_from": prompts_from}) | {
        "data": config.data.model_dump(mode="json", exclude=_unset(config.data)),
        "codec": config.codec.model_dump(mode="json", exclude=plain),
        "model.path": None if config.model.path is None else str(config.model.path),
        "run.seed": config.run.seed,
    }


def _unset(data: DataSettings) -> dict[str, Any]:
    """Settings that versions before them read as their defaults, where they are left at these."""
    names = (name for name in ("header", "items_header", "quoted", "day_first") if getattr(data, name) is None)
    return dict.fromkeys(names, True) | ({"columns": {"id"}} if data.columns.id is None else {})


def describe_log(
    read: ReadCounts, counts: NDArray[np.int64], store: SequenceStore, with_all_items: int = 0
) -> dict[str, int]:
    """Interactions at each stage, and the users who are left; ``with_all_items``: of users left out for that."""
    left = int(counts.sum())
    rows = {name: getattr(read, name) for name in ("read", "low_rating", "without_title", "repeated", "kept")}
    rows |= {"unreadable": read.unreadable, "without_rating": read.without_rating, "with_all_items": with_all_items}
    filtered = {"dropped_by_k_core": read.kept - left - with_all_items, "left": left, "users": users_left(store)}
    return rows | filtered | {"items_without_title": read.items_without_title, "partitions": len(store)}


def describe_items(read: ReadCounts, counts: NDArray[np.int64], popularity: NDArray[np.int64]) -> dict[str, int]:
    """Items at each stage.

    Args:
        read: what became of the raw log.
        counts: interactions with each row of the items table that are left.
        popularity: ``[I]`` training interactions with each item of the catalog.
    """
    left = int((counts > 0).sum())
    return {
        "read": read.items,
        "dropped_by_min_rating": read.items_low_rating,
        "dropped_without_title": read.items_without_title,
        "dropped_by_k_core": read.items - read.items_low_rating - read.items_without_title - left,
        "left": left,
        "catalog": len(popularity),
        "trained_on": int((popularity > 0).sum()),
    }


def users_left(store: SequenceStore) -> int:
    """Users in the sequences."""
    return sum(len(store.load(partition)) for partition in range(len(store)))


def describe_catalog(catalog: Catalog) -> dict[str, Any]:
    """Items and groups."""
    bare = np.flatnonzero(catalog.groups.lengths == 0)
    return {
        "items": catalog.on_sale,
        "groups": catalog.n_groups,
        "items_without_group": len(bare),
        "first_without_group": [f"{catalog.item_ids[item]} ({catalog.titles[item]})" for item in bare[:NAMED]],
        "items_only_held_out": int(catalog.cold.sum()),
    }


def write_items_without_group(catalog: Catalog, folder: Path) -> None:
    """Writes their ids, a line each in catalog order, atomically; no file where none, or every item, has no group."""
    bare = catalog.item_ids[catalog.groups.lengths == 0]
    if catalog.n_groups and len(bare):
        write_text(folder / WITHOUT_GROUP, "".join(f"{item}\n" for item in bare))


def describe_codec(codec: Codec, k: int) -> dict[str, int]:
    """Tokens; ``k``: items of a list."""
    longest = int(codec.item_tokens.lengths.max())
    return {"vocabulary": codec.vocabulary, "longest_item": longest, "longest_list": codec.max_list_tokens(k)}


def filter_losses(data: DataSettings, read: ReadCounts, counts: NDArray[np.int64]) -> str:
    """Which filter removed how many interactions, for a message."""
    removed = {
        "unreadable rows": read.unreadable,
        f"data.min_rating ({data.min_rating})": read.low_rating + read.without_rating,
        "items without a title": read.without_title,
        f"data.repeats ({data.repeats})": read.repeated,
        f"data.k_core ({data.core})": read.kept - int(counts.sum()),
    }
    parts = ", ".join(f"{what} {rows}" for what, rows in removed.items() if rows)
    return (
        f"of {read.read} interactions these are left out: {parts}" if parts else f"{read.read} interactions were read"
    )


def _serving(data: DataSettings) -> tuple[int, int]:
    """Items of the shortest user with a prompt in all three splits of ``leave_last``; items from which on all have."""
    lengths = np.arange(data.min_history + (data.test_windows + 2) * data.targets + 3)
    split = leave_last(lengths, data.targets, data.min_history, data.test_windows)
    trained = windows(split.train_end, data.targets, data.min_history, latest=1)
    serves = np.all([np.isin(lengths, part.user) for part in (trained, split.validation, split.test)], axis=0)
    return int(serves.argmax()), int(np.flatnonzero(~serves)[-1]) + 1


def why_empty(data: DataSettings, store: SequenceStore) -> str:
    """Why no prompt could be cut from the sequences that are left, for a message."""
    if data.splits is not None:
        return (
            f"a training prompt needs data.min_history + 1 = {data.min_history + 1} items of the log before the first "
            "of a user's held-out items, and no user has as many"
        )
    lengths = np.concatenate([store.load(partition).items.lengths for partition in range(len(store))])
    longest = f"the longest of the {len(lengths)} users left has {lengths.max()} items"
    if data.split == "leave_last":
        shortest, always = _serving(data)
        enough = f"{shortest} items or more" if shortest == always else f"{shortest} items, or with {always} or more"
        return (
            f"{longest}; with data.min_history {data.min_history} and data.targets {data.targets} a user serves all "
            f"three splits with {enough}"
        )
    return (
        f"{longest}; a training prompt needs data.min_history + 1 = {data.min_history + 1} of "
        f"them before the first point in time, and the periods after it are data.validation_fraction "
        f"({data.validation_fraction}) and data.test_fraction ({data.test_fraction}) of the log"
    )
