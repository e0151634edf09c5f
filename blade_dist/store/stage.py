"""What a stage notes of its work in ``stage.json``: the settings that it depends on, whether it is whole, and whether
it diverged. By it a stage knows that its work is already done, or is of other settings."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from blade_dist.errors import UserError
from blade_dist.store.changes import changes, made_otherwise
from blade_dist.store.files import read_json, write_json

STAGE = "stage.json"
"""File of a stage's folder: what it depends on, and whether it is whole."""
ITEMS = "items of the catalog"
"""The name of their number among what a stage depends on: who lets a catalog grow knows that, and no digest."""
Settings = Mapping[str, Any]
"""Names of settings and inputs to their values, in sections or dotted."""


def is_done(folder: Path, settings: Settings, what: str, instead: str, growing: Collection[str] = ()) -> bool:
    """Whether ``folder`` holds this stage's finished work.

    Work that is lost with nobody, as nothing is saved or as it diverged, may be of any settings: :func:`begin` makes it
    anew.

    Args:
        folder: of the stage.
        settings: what the work depends on.
        what: the work.
        instead: what there is to do for these settings beside setting them back; follows a comma.
        growing: settings that the work goes on with other values of; it is not done then.

    Raises:
        UserError: it holds work that was made with other settings or inputs; all of them are named.
    """
    state = read_json(folder / STAGE)
    if state is None:
        return False
    if "settings" not in state:
        raise UserError(
            f"{folder}: {what} there is of an earlier version, which noted no settings: choose another run.dir"
        )
    changed = changes(state["settings"], settings)
    refused = [text for name, text in changed.items() if name not in growing]
    if refused and _is_worth_something(folder, state):
        raise made_otherwise(f"{folder}: {what} there", refused, instead)
    return bool(state["done"]) and not changed


def begin(folder: Path, settings: Settings, growing: Collection[str] = ()) -> str | None:
    """Binds the folder, for which :func:`is_done` was false, to the settings; what became of other work there.

    Checkpoints of other settings are those of work that diverged: the folder steps aside, as ``<name>.diverged``.
    """
    changed = changes(noted(folder) or settings, settings)
    others = "; ".join(text for name, text in changed.items() if name not in growing)
    said = None
    if others and _has_checkpoints(folder):
        aside = folder.with_name(f"{folder.name}.diverged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        said = f"begins anew ({others}); what diverged is kept in {aside}"
    elif others:
        said = f"begins anew ({others}), as nothing was saved there"
    mark(folder, settings, done=False)
    return said


def noted(folder: Path) -> dict[str, Any]:
    """The settings that the folder's work belongs to; nothing where there is no work."""
    settings: dict[str, Any] = (read_json(folder / STAGE) or {}).get("settings", {})
    return settings


def mark(folder: Path, settings: Settings, done: bool, diverged: bool = False) -> None:
    """Notes which settings the folder's work belongs to, whether it is whole, and whether it can't become so."""
    write_json(folder / STAGE, {"settings": settings, "done": done, "diverged": diverged})


def _is_worth_something(folder: Path, state: Mapping[str, Any]) -> bool:
    if state["done"] or (folder / "policy").is_dir():
        return True
    return _has_checkpoints(folder) and not state["diverged"]


def _has_checkpoints(folder: Path) -> bool:
    return any(folder.glob("learners/checkpoint_*"))
