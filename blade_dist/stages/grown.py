"""Policies that were trained on an earlier catalog: opened with the items of this run.

They are those of the runs and exports that ``codec.grown_from`` leads back to, and others whose tokens mean the same
items here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from blade_dist.catalog.catalog import Catalog
from blade_dist.catalog.earlier import CATALOG, CODEC, Earlier
from blade_dist.catalog.more import day_features
from blade_dist.data.bundle import DataBundle
from blade_dist.data.grown_from import describe, of_new
from blade_dist.errors import UserError
from blade_dist.serving.grown_weights import copy_policy
from blade_dist.serving.manifest import CARD
from blade_dist.settings import Config
from blade_dist.store.exported import MANIFEST
from blade_dist.store.files import read_json, whole_folder, write_json
from blade_dist.store.policy import STAMP, read_policy, weights_digest
from blade_dist.store.run import RunPaths
from blade_dist.tracking.say import say


def known_to(checkpoint: Path, config: Config, data: DataBundle) -> Earlier | None:
    """What a policy of an earlier catalog knows; None of one of this run, and of one to which tokens mean other items.

    Its items are looked for in the checkpoint where that is an export, in its own run, and in what the data grew from.

    Raises:
        UserError: a damaged catalog or codec there; a policy whose tokens are written as this run's and mean others.
    """
    stamp = read_json(checkpoint / STAMP)
    codec = None if stamp is None else stamp.get("codec")
    if codec == data.codec.fingerprint() and data.codec.kind != "title":  # a title is its item's, whatever the id
        _check_same_items(checkpoint, RunPaths(config.run.dir), data)
    if codec is None or codec == data.codec.fingerprint():
        return None
    places = _earlier(checkpoint, RunPaths(config.run.dir))
    # the first decides: codecs of other items may have the same fingerprint
    found = next((one for one in places if one.codec.fingerprint() == codec), None)
    return found if found is not None and found.is_kept(data.catalog, data.codec) else None


def _check_same_items(checkpoint: Path, paths: RunPaths, data: DataBundle) -> None:
    """Where items are numbered, codecs of as many items have one fingerprint, whichever items they are."""
    own = next(_own(checkpoint), paths.data)
    if own.resolve() == paths.data.resolve():
        return
    theirs, ours = Catalog.load(own / CATALOG).item_ids, data.catalog.item_ids
    if len(differ := np.flatnonzero(theirs != ours)):  # as many there as here, or the fingerprints would differ
        raise UserError(
            f"{checkpoint}: a checkpoint of another catalog: its items have the tokens of other items here, as item "
            f"{differ[0] + 1} is {str(theirs[differ[0]])!r} there and {str(ours[differ[0]])!r} here; use the config of "
            "its run, or set codec.grown_from to that run, in a new run.dir"
        )


def _earlier(checkpoint: Path, paths: RunPaths) -> Iterator[Earlier]:
    yield from map(Earlier.load, _own(checkpoint))
    if paths.earlier.is_dir():
        yield from Earlier.load(paths.earlier).chain()


def _own(checkpoint: Path) -> Iterator[Path]:
    """Where a checkpoint's own items may be: in itself, where it is an export, or in the data of its run."""
    for folder in (checkpoint, RunPaths(checkpoint.absolute().parent.parent).data):
        if (folder / CATALOG).is_dir() and (folder / CODEC).is_dir():
            yield folder


def with_todays_items(checkpoint: Path, config: Config, data: DataBundle) -> Path:
    """The checkpoint as it is; of a policy of an earlier catalog, a copy in this run's folder that knows all items.

    New items with a token of their own get vectors as ``blade-dist catalog`` gives them
    (:mod:`blade_dist.serving.grown_weights`); where items have several tokens, nothing but the stamp is another.

    Raises:
        UserError: a damaged checkpoint, or one that can't grow.
    """
    if (earlier := known_to(checkpoint, config, data)) is None:
        return checkpoint
    stamp = read_policy(checkpoint, earlier.codec.fingerprint())
    made = RunPaths(config.run.dir).grown(stamp.weights)
    if not made.is_dir():
        known, (layout, day) = len(earlier.catalog), earlier.growth(data.catalog, data.codec)
        features = partial(day_features, earlier.catalog, day, known, config.run.seed)
        left = {STAMP, MANIFEST, CARD}
        files = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name not in left]
        with whole_folder(made) as folder:
            copy_policy(files, folder, earlier.codec, layout, known, features)
            codec, weights = data.codec.fingerprint(), weights_digest(folder)
            write_json(folder / STAMP, {**vars(stamp), "codec": codec, "weights": weights})
    return made


def say_new(stage: str, checkpoint: Path, config: Config, data: DataBundle, console: Console) -> None:
    """Says which items a policy of an earlier catalog was not trained with; nothing of others."""
    if (earlier := known_to(checkpoint, config, data)) is not None:
        grown = describe(earlier, data.catalog)
        if grown["new"]:
            say(console, f"{stage}: {checkpoint} knows {grown['known']:,} of the items; {of_new(grown)} to it")
