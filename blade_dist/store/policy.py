"""A policy on disk: a plain Hugging Face folder, and a stamp that says what it belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blade_dist.errors import UserError
from blade_dist.store.base_files import check_weights
from blade_dist.store.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAMP = "blade_dist.json"


@dataclass(frozen=True)
class PolicyStamp:
    """What a checkpoint is."""

    policy: str
    """``sft``, or the target it was aligned to."""
    step: int
    codec: str
    """Fingerprint of the codec: tokens mean the same items."""
    weights: str
    """Digest of the weight files."""


def save_policy(
    directory: Path,
    model: Any,
    state: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    *,
    codec: str,
    policy: str,
    step: int,
) -> PolicyStamp:
    """Writes config, weights (safetensors), tokenizer and stamp into ``directory``.

    Args:
        directory: is made where it is missing.
        model: the Transformers model; gives the configuration.
        state: the weights, full tensors under the model's names.
        tokenizer: the codec's, with its item tokens.
        codec: the codec's fingerprint.
        policy: ``sft``, or the target that the model was aligned to.
        step: training steps behind the weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, state_dict=state)
    tokenizer.save_pretrained(directory)
    stamp = PolicyStamp(policy, step, codec, weights_digest(directory))
    write_json(directory / STAMP, asdict(stamp))
    return stamp


def read_policy(directory: Path, codec: str) -> PolicyStamp:
    """The stamp of a checkpoint of ours, checked against ``codec``, the fingerprint of this run's codec.

    Raises:
        UserError: no checkpoint there, or one of another model or catalog.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: no checkpoint there (config.json is missing)")
    content = read_json(directory / STAMP)
    if content is None:
        raise UserError(
            f"{directory}: not a checkpoint of this program ({STAMP} is missing); "
            "give it as model.path and run `blade-dist sft` first"
        )
    stamp = _stamp(directory, content)
    if stamp.codec != codec:
        raise UserError(
            f"{directory}: a checkpoint of another model: its item tokens are {stamp.codec}, "
            f"this run's are {codec} (data/codec); use the config of its run"
        )
    return stamp


def check_base(directory: Path, codec: str, tokenizer_of: Path | None) -> None:
    """Checks that ``model.path`` can be fine-tuned on lists that this run's codec writes.

    Args:
        directory: the base checkpoint.
        codec: fingerprint of the prepared data's codec.
        tokenizer_of: the base checkpoint whose tokenizer the codec extends; None where it was trained on the catalog.

    Raises:
        UserError: no Hugging Face checkpoint with whole safetensors, or one whose tokens mean something else.
    """
    check_weights(directory)
    content = read_json(directory / STAMP)
    base = None if content is None else _stamp(directory, content).codec
    if base == codec or (tokenizer_of is not None and tokenizer_of.resolve() == directory.resolve()):
        return
    if base is not None:
        raise UserError(
            f"model.path: {directory} is a checkpoint of another model: its item tokens are {base}, "
            f"this run's are {codec} (data/codec); run `blade-dist data` with it, in another run.dir"
        )
    raise UserError(
        f"model.path: {directory} has another tokenizer than the prepared data, whose is "
        f"{tokenizer_of or 'trained on the catalog'}; run `blade-dist data` with it, in another run.dir"
    )


def _stamp(directory: Path, content: dict[str, Any]) -> PolicyStamp:
    try:
        return PolicyStamp(**content)
    except TypeError:
        names = ", ".join(field.name for field in fields(PolicyStamp))
        raise UserError(f"{directory / STAMP}: damaged: it must hold {names}; save the checkpoint again") from None


def weights_digest(directory: Path) -> str:
    """SHA-256 over the safetensors files, 16 hex digits."""
    total = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            while piece := file.read(2**24):  # a shard may be larger than memory
                total.update(piece)
    return total.hexdigest()[:16]
