"""How all ranks save one checkpoint together: whole and on disk before anybody hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray.train

from blade_dist.errors import FullDiskError
from blade_dist.store.checkpoints import (
    NUMBERS,
    check_room,
    checkpoint_folder,
    discard,
    finish,
    is_full,
    no_room,
    remove_unfinished,
    unfinished_folder,
)
from blade_dist.store.files import sync_tree, write_json
from blade_dist.store.whole import Sums, damage, files_below, sums, write_manifest
from blade_dist.training.collective import barrier, from_all, from_first, own_rank


@contextmanager
def new_checkpoint(parent: Path, step: int, numbers: dict[str, float]) -> Iterator[Path]:
    """A folder in which every rank writes its part; at the block's end it is a checkpoint that Ray Train knows.

    It is written in the run's own storage. When all ranks have written, its files are checksummed and brought to the
    disk, the manifest is written, all of it is read again from the disk and compared, and then it takes its name and
    is reported, so that Ray Train deletes an older one only after that. Collective.

    Args:
        parent: the folder of all checkpoints, on storage that all ranks share.
        step: steps done.
        numbers: the score, where one was measured.

    Raises:
        FullDiskError: it does not fit; on all ranks where that was seen before, else on those that saw it.
        RuntimeError: the disk holds something else than was written.
    """
    unfinished, whole = unfinished_folder(parent, step), checkpoint_folder(parent, step)
    numbers = {"step": step} | numbers
    if (full := from_first(lambda: _begin(parent, unfinished, step, numbers))) is not None:
        raise full
    try:
        yield unfinished
        _seal(unfinished)
    except Exception as error:
        full = no_room(parent, step) if is_full(unfinished, error) else None
        discard(unfinished)
        if full is not None:
            raise full from error
        raise
    from_first(lambda: finish(unfinished, whole))
    checkpoint = ray.train.Checkpoint.from_directory(whole)
    ray.train.report(numbers, checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)


def _begin(parent: Path, unfinished: Path, step: int, numbers: dict[str, float]) -> FullDiskError | None:
    """Rank 0: the folder with the numbers; returns the error that all ranks shall raise, if any."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(parent)
    try:
        check_room(parent, step)
        unfinished.mkdir()
        write_json(unfinished / NUMBERS, numbers)
    except FullDiskError as full:
        return full
    except OSError as error:
        if not is_full(parent, error):
            raise
        return no_room(parent, step)
    return None


def _seal(folder: Path) -> None:
    """Checksums, manifest and proof of a folder that all ranks have written; each rank reads a share of the files."""
    barrier()
    sync_tree(folder)  # by every rank, as a node can bring to a shared disk only what it wrote itself
    seen = from_all(files_below(folder))
    names = sorted(set().union(*seen))
    own = sums(folder, names[own_rank() :: len(seen)])
    shares: list[Sums] = from_all(own)
    from_first(lambda: write_manifest(folder, {name: of for share in shares for name, of in share.items()}))
    found = [what for what in from_all(damage(folder, own, from_disk=True)) if what is not None]
    if found:
        raise RuntimeError(f"{folder}: {found[0]}, right after that: the disk does not hold what is written to it")
