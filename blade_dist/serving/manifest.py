"""``recommender.json``: what an export is, how its lists are decoded, and a checksum of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from blade_dist.errors import UserError
from blade_dist.settings import Decode, ListSettings
from blade_dist.settings.section import NonNegative, Positive, Section
from blade_dist.store.files import read_json

SCHEMA: Final = 1
"""Version of the manifest, and of all that it describes."""
MANIFEST = "recommender.json"
CARD = "README.md"
"""The model card: for people, who may edit it, so that it has no checksum."""
WEIGHTS = ".safetensors"


class FileSum(Section):
    bytes: NonNegative
    """Size of the file."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the file's content."""


class Manifest(Section):
    schema_version: Literal[1] = SCHEMA
    """Of the export's layout."""
    blade_dist: str
    """Version that wrote it."""
    policy: str
    """``sft``, or the target that the weights were aligned to."""
    step: NonNegative
    """Training steps behind the weights."""
    weights: str
    """Digest of the weight files."""
    codec: str
    """Fingerprint of the codec: tokens mean the same items."""
    catalog: str
    """Fingerprint of the items."""
    dtype: Literal["float32", "bfloat16"]
    """Number format in which it was evaluated."""
    context: Positive
    """Longest sequence in tokens, prompt and list together."""
    seed: NonNegative
    """``run.seed``."""
    decode: Decode
    """How lists are decoded where a request does not say."""
    beams: Positive
    """Lists that ``beam`` keeps."""
    lists: ListSettings
    """K and the rules: no request can loosen them."""
    max_history: Positive
    """Items that a prompt shows, the latest ones."""
    repeats: Literal["first", "last", "all"]
    """Which of a user's interactions with the same item a prompt shows."""
    prompt: str
    """``codec.prompt``, for other servers."""
    separator_token_id: int | None
    """Token after every item of a list; None where items need none."""
    end_token_id: int
    """Token after a list."""
    files: dict[str, FileSum]
    """Every file of the export but the manifest and the model card, by its path inside."""


def checksums(folder: Path) -> dict[str, FileSum]:
    """Of all files in a folder, by path, ascending."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _sum(path) for name, path in names.items() if name not in (MANIFEST, CARD)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest, without a look at the files.

    Raises:
        UserError: no export there, one of another schema version, or a damaged manifest.
    """
    content = read_json(folder / MANIFEST)
    if content is None:
        raise UserError(f"{folder}: no export there ({MANIFEST} is missing); write one with `blade-dist export`")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        found = "an earlier version's, without a number" if version is None else repr(version)
        raise UserError(
            f"{folder / MANIFEST}: schema_version: {found}; this version of blade_dist reads {SCHEMA}: "
            "write the export again with it"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(f"{folder / MANIFEST}: damaged: {name}: {first['msg']}; write the export again") from None


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compares every file with its checksum; reads all of them once.

    Raises:
        UserError: a file that is missing or damaged, or weights that the manifest does not know (an engine would load
            them).
    """
    for name, known in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; copy the export again, as a whole")
        if path.stat().st_size != known.bytes or _sum(path) != known:
            raise UserError(f"{path}: damaged: its checksum is not the one in {MANIFEST}; copy the export again")
    for path in folder.glob(f"*{WEIGHTS}"):
        if path.name not in manifest.files:
            raise UserError(f"{path}: not a file of this export, and would be loaded; remove it")


def _sum(path: Path) -> FileSum:
    with path.open("rb") as file:
        return FileSum(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
