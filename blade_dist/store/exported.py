"""What tells an export from other folders, and which layouts of it are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from blade_dist.errors import UserError
from blade_dist.store.files import read_json

MANIFEST = "recommender.json"
SCHEMA: Final = 2
"""Version of the manifest, and of all that it describes. Version 1 knew no items that are withdrawn, so that what reads
it would recommend them."""
READ: Final = (1, 2)
"""Versions that are read; what 1 does not have has a default."""


def is_export(folder: Path) -> bool:
    """Whether it claims to be one."""
    return (folder / MANIFEST).is_file()


def read_export(folder: Path) -> dict[str, Any]:
    """The manifest as it is written.

    Raises:
        UserError: no export there, or one of another schema version.
    """
    content = read_json(folder / MANIFEST)
    if content is None:
        raise UserError(f"{folder}: no export there ({MANIFEST} is missing); write one with `blade-dist export`")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in READ:
        found = "an earlier version's, without a number" if version is None else repr(version)
        raise UserError(
            f"{folder / MANIFEST}: schema_version: {found}; this version of blade_dist reads "
            f"{' and '.join(map(str, READ))}: write the export again with it"
        )
    return content
