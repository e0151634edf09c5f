"""Policies of the earlier run that ``codec.grown_from`` names: opened with the items of this one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from blade_dist.catalog.earlier import Earlier
from blade_dist.catalog.layout import Layout
from blade_dist.catalog.more import day_features
from blade_dist.data.bundle import DataBundle
from blade_dist.data.grown_from import of_new
from blade_dist.serving.grown_weights import copy_policy
from blade_dist.settings import Config
from blade_dist.store.files import read_json, whole_folder, write_json
from blade_dist.store.policy import STAMP, read_policy, weights_digest
from blade_dist.store.run import RunPaths
from blade_dist.tracking.say import say


def is_earlier(checkpoint: Path, data: DataBundle) -> bool:
    """Whether it is a policy of the run that the data's items are written as, and not of this one."""
    grown, stamp = data.card.get("grown"), read_json(checkpoint / STAMP)
    return grown is not None and stamp is not None and stamp.get("codec") == grown["codec"]


def with_todays_items(checkpoint: Path, config: Config, data: DataBundle) -> Path:
    """The checkpoint as it is; of a policy of the earlier run, a copy in this run's folder that knows all items.

    New items with a token of their own get vectors as ``blade-dist catalog`` gives them
    (:mod:`blade_dist.serving.grown_weights`); where items have several tokens, nothing but the stamp is another.

    Raises:
        UserError: a damaged checkpoint, or one that can't grow.
    """
    if not is_earlier(checkpoint, data) or data.codec.fingerprint() == data.card["grown"]["codec"]:
        return checkpoint
    paths, stamp = RunPaths(config.run.dir), read_policy(checkpoint, data.card["grown"]["codec"])
    made = paths.grown(stamp.weights)
    if not made.is_dir():
        earlier = Earlier.load(paths.earlier)
        known, day = len(earlier.catalog), earlier.today(data.catalog)
        grows = data.codec.vocabulary > earlier.codec.vocabulary
        layout = Layout.of(earlier.codec, day.new) if grows else None
        features = partial(day_features, earlier.catalog, day, known, config.run.seed)
        files = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name != STAMP]
        with whole_folder(made) as folder:
            copy_policy(files, folder, earlier.codec, layout, known, features)
            codec, weights = data.codec.fingerprint(), weights_digest(folder)
            write_json(folder / STAMP, {**vars(stamp), "codec": codec, "weights": weights})
    return made


def say_new(stage: str, checkpoint: Path, data: DataBundle, console: Console) -> None:
    """Says which items a policy of the earlier run was not trained with; nothing of others."""
    if is_earlier(checkpoint, data) and data.card["grown"]["new"]:
        grown = data.card["grown"]
        say(console, f"{stage}: {checkpoint} knows {grown['known']:,} of the items; {of_new(grown)} to it")
