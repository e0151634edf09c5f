"""``recommender.json``: what an export is, how its lists are decoded, and a checksum of every file."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from blade_dist.errors import UserError
from blade_dist.serving.text import ItemText, Turn
from blade_dist.settings import Decode, ListSettings
from blade_dist.settings.section import NonNegative, Positive, Strict
from blade_dist.store.exported import MANIFEST, SCHEMA, is_export, read_export
from blade_dist.store.files import check_folder
from blade_dist.store.whole import damage, files_below, sums

CARD = "README.md"
"""The model card: for people, who may edit it, so that it has no checksum."""
WEIGHTS = ".safetensors"
NEEDED = ("config.json", f"*{WEIGHTS}", "catalog/items.arrow", "codec/codec.json", "codec/codec.arrow", "trie/*")
"""Patterns of files without which there is nothing to serve."""


class FileSum(Strict):
    bytes: NonNegative
    """Size of the file."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the file's content."""


class Trained(Strict):
    weights: str
    """Digest of the weight files that were trained."""
    codec: str
    """Fingerprint of the codec that they were trained with."""
    catalog: str
    """Fingerprint of the items that they were trained with."""
    items: Positive
    """How many these are: the first rows of the catalog."""


class Day(Strict):
    on_sale: Positive
    """Items that a list may hold."""
    new: NonNegative
    """Those of them that the policy was not trained with."""
    changed: NonNegative
    """Those of them with another title or other groups than in the export that this one was made from."""
    withdrawn: NonNegative
    """Items that a history may name and no list may hold."""


class Manifest(Strict):
    schema_version: Literal[1, 2] = SCHEMA
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
    format: Literal["plain", "chat"] = "plain"
    """``codec.format``: what stands around ``codec.prompt``."""
    prompt: str
    """The whole text of a prompt, for other servers, which put bos before it: ``codec.prompt``, inside the turns of the
    chat template where ``format`` is chat."""
    text: ItemText | None = None
    """How other servers are sent items and answer with them as text; None where they must be sent tokens."""
    turns: list[Turn] | None = None
    """What chat servers are sent instead of ``prompt``; None where there is no chat template, or where it makes other
    tokens of them than those of the training."""
    separator_token_id: int | None
    """Token after every item of a list; None where items need none."""
    end_token_id: int
    """Token after a list."""
    max_title_tokens: Positive | None = None
    """Tokens to which titles are cut where they are written; None: not at all, or not known (version 1)."""
    trained: Trained | None = None
    """What the policy is, where the catalog is of another day than the training's; None where that is this export."""
    day: Day | None = None
    """What became of the catalog since."""
    files: dict[str, FileSum]
    """Every file of the export but the manifest and the model card, by its path inside."""

    def written(self) -> dict[str, Any]:
        """What stands in the file: the fields, and ``k`` of ``lists`` by itself, for who builds prompts by hand."""
        return {"k": self.lists.k} | self.model_dump(mode="json")


def checksums(folder: Path) -> dict[str, FileSum]:
    """Of all files in a folder, by path, ascending."""
    names = [name for name in files_below(folder) if name not in (MANIFEST, CARD)]
    return {name: FileSum.model_validate(of) for name, of in sums(folder, names).items()}


def read_manifest(folder: Path) -> Manifest:
    """The manifest, without a look at the files.

    Raises:
        UserError: no export there, one of another schema version, or a damaged manifest.
    """
    content = read_export(folder)
    alone = content.pop("k", None)  # which exports that were written before lack
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(f"{folder / MANIFEST}: damaged: {name}: {first['msg']}; write the export again") from None
    if alone not in (None, k := manifest.lists.k):
        raise UserError(f"{folder / MANIFEST}: damaged: k: {alone}, and lists.k: {k}; write the export again")
    return manifest


def check_out(out: Path) -> None:
    """Raises UserError where ``--out`` is there and is not an export, or can't be."""
    if out.exists() and not is_export(out):
        raise UserError(f"--out {out}: exists and is not an export; choose another one")
    check_folder(out, "--out")


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compares every file with its checksum; reads all of them once.

    Raises:
        UserError: a file that is missing or damaged, one that the manifest should know, or weights that it does not
            (an engine would load them).
    """
    if unknown := next((pattern for pattern in NEEDED if not fnmatch.filter(manifest.files, pattern)), None):
        raise UserError(f"{folder / MANIFEST}: damaged: files: no {unknown} there; copy the export again, as a whole")
    if what := damage(folder, {name: of.model_dump() for name, of in manifest.files.items()}):
        raise UserError(f"{folder}/{what}; copy the export again, as a whole")
    for path in folder.glob(f"*{WEIGHTS}"):
        if path.name not in manifest.files:
            raise UserError(f"{path}: not a file of this export, and would be loaded; remove it")
