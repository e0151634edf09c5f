"""How all ranks save one checkpoint together, beside the training: whole and on disk before anybody hears of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

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
from blade_dist.training.collective import Group, barrier, from_all, from_first, of_threads, own_rank

PATIENCE_S = 60.0
"""A training that fails waits so long for its last checkpoint."""


class Saver:
    """Saves the checkpoints of a training that goes on meanwhile, one at a time. Methods are collective.

    What is saved is copied first, by whom it belongs to. A thread of every rank then writes its part into a folder in
    the run's own storage. When all ranks have written, the files are checksummed and brought to the disk, the manifest
    is written, all of it is read again from the disk and compared, and the folder takes its name. Ray Train is told of
    it by the training's own thread, at the first :meth:`look` after that, and deletes an older one only then.

    As a context it saves what is under way to its end; where the training fails, too, as far as it can.
    """

    def __init__(self, parent: Path) -> None:
        """``parent``: the folder of all checkpoints, on storage that all ranks share."""
        self._parent = parent
        self._group = of_threads()
        self._writing: _Writing | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        elif self._writing is not None:
            self._writing.join(PATIENCE_S)

    def start(self, step: int, numbers: dict[str, float], write: Callable[[Path], None]) -> None:
        """Begins a checkpoint, when the one before is finished (so that no two copies are held, finish it before).

        Args:
            step: steps done.
            numbers: the score, where one was measured.
            write: writes this rank's part into a folder, from another thread: what it reads must be a copy.

        Raises:
            FullDiskError: this one does not fit, on all ranks; or what :meth:`finish` raises.
        """
        self.finish()
        unfinished, whole = unfinished_folder(self._parent, step), checkpoint_folder(self._parent, step)
        numbers = {"step": step} | numbers
        if (full := from_first(lambda: _begin(self._parent, unfinished, step, numbers))) is not None:
            raise full
        self._writing = _Writing(unfinished, whole, numbers, write, self._group)
        self._writing.start()

    def look(self) -> None:
        """Tells Ray Train of the checkpoint that is under way, if it is whole by now.

        Raises:
            FullDiskError, RuntimeError: see :meth:`finish`.
        """
        # where one has ended, the others are about to; or it failed, and takes them along as they wait for it
        if self._writing is not None and any(from_all(not self._writing.is_alive())):
            self.finish()

    def finish(self) -> None:
        """Waits for the checkpoint that is under way, if any, and tells Ray Train of it.

        Raises:
            FullDiskError: it does not fit; on the ranks that saw it.
            RuntimeError: the disk holds something else than was written.
        """
        if (writing := self._writing) is None:
            return
        writing.join()
        self._writing = None
        if writing.error is not None:
            raise writing.error
        checkpoint = ray.train.Checkpoint.from_directory(writing.whole)
        ray.train.report(writing.numbers, checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)


class _Writing(threading.Thread):
    """A rank's part in one checkpoint."""

    def __init__(
        self, unfinished: Path, whole: Path, numbers: dict[str, float], write: Callable[[Path], None], group: Group
    ) -> None:
        super().__init__(daemon=True)  # a rank whose fellows have died ends, though its thread waits for theirs
        self.whole = whole
        self.numbers = numbers
        self.error: Exception | None = None
        """What it failed with."""
        self._unfinished = unfinished
        self._write = write
        self._group = group
        self._rank = own_rank()

    def run(self) -> None:
        try:
            self._write(self._unfinished)
            _seal(self._unfinished, self._rank, self._group)
            from_first(lambda: finish(self._unfinished, self.whole), self._group)
        except Exception as error:
            self.error = error
            if is_full(self._unfinished, error):
                self.error = no_room(self.whole.parent, int(self.numbers["step"]))
                self.error.__cause__ = error
            discard(self._unfinished)


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


def _seal(folder: Path, rank: int, group: Group) -> None:
    """Checksums, manifest and proof of a folder that all ranks have written; each rank reads a share of the files."""
    barrier(group)
    sync_tree(folder)  # by every rank, as a node can bring to a shared disk only what it wrote itself
    seen = from_all(files_below(folder), group)
    names = sorted(set().union(*seen))
    own = sums(folder, names[rank :: len(seen)])
    shares: list[Sums] = from_all(own, group)
    from_first(lambda: write_manifest(folder, {name: of for share in shares for name, of in share.items()}), group)
    found = [what for what in from_all(damage(folder, own, from_disk=True), group) if what is not None]
    if found:
        raise RuntimeError(f"{folder}: {found[0]}, right after that: the disk does not hold what is written to it")
