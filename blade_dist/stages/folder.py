"""The run's folder, before a command works in it: where it may be, its log and its copy."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from blade_dist.errors import UserError
from blade_dist.settings.tree import RunSettings
from blade_dist.stages.loudness import loudness
from blade_dist.store.files import check_folder

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in the entrypoint of a submitted job."""


def check_place(folder: Path) -> None:
    """Raises UserError where the run's folder can't be one, or would be deleted with a submitted job."""
    if RAY_JOB in os.environ and not folder.is_absolute():
        raise UserError(
            f"run.dir: {folder} is below the folder of the submitted job, which is deleted with it; give an absolute "
            "path on storage that all nodes share"
        )
    check_folder(folder, "run.dir")


def in_folder(run: RunSettings) -> Console:
    """For messages of a command that works in the run's folder, in which its log is from now on; it has a copy in
    ``run.copy_to``, where that is set, until the command ends.

    Raises:
        UserError: nothing can be written in the folder, or the copy can't be used.
    """
    console = loudness().console(run.dir)
    if run.copy_to is not None:
        from blade_dist.stages.copied import copied

        loudness().until_end(copied(run.dir, run.copy_to, console))
    return console
