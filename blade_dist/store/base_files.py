"""Whether a Hugging Face folder holds the files of a model that can be trained, and not what stands in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blade_dist.errors import UserError

POINTER = b"version https://git-lfs"
INDEX = "model.safetensors.index.json"
READ = ("config.json", "tokenizer*", "vocab.json", "merges.txt", "model*.safetensors", INDEX)
"""Files that are read, as far as they are there."""
OTHERS = ("pytorch_model*.bin", "*.gguf", "*.pth", "*.pt", "*.msgpack", "*.h5")
"""Weights that are not read."""


def refuse_pointers(folder: Path) -> None:
    """Raises UserError where a file that is read is a pointer of Git LFS."""
    for pattern in READ:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and path.open("rb").read(len(POINTER)) == POINTER:
                raise UserError(f"{path}: it is a pointer of Git LFS, and not the file; fetch that with `git lfs pull`")


def check_kind(folder: Path) -> None:
    """Checks that a model of its own is there, which can be trained; its weights may be missing.

    Raises:
        UserError: there is none, an adapter alone, a quantized model, an encoder, or a pointer in a file's place.
    """
    refuse_pointers(folder)
    adapter = _json(folder / "adapter_config.json")
    if adapter and any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{folder}: whole weights stand beside a LoRA adapter, and Transformers would add it to them; move "
            "adapter_config.json away where they are merged already"
        )
    if adapter:
        raise UserError(
            f"{folder}: it is a LoRA adapter alone, of {adapter.get('base_model_name_or_path')}: merge it into its "
            "base model first (PEFT's merge_and_unload, then save_pretrained), and give that folder"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no Hugging Face checkpoint there (config.json is missing)")
    config = _json(folder / "config.json")
    if config.get("quantization_config"):
        raise UserError(
            f"{folder}: its weights are quantized (quantization_config), and such can't be trained: give the model "
            "that they were made of"
        )
    for name in config.get("architectures") or []:
        if str(name).endswith(("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")):
            raise UserError(f"{folder}: {name} writes no text; give a causal language model, as LlamaForCausalLM is")


def check_weights(folder: Path) -> None:
    """As :func:`check_kind`, and that the files of its weights are there.

    Raises:
        UserError: also where they are no safetensors, or some of them are missing.
    """
    check_kind(folder)
    there = {path.name for path in folder.glob("*.safetensors")}
    if not there:
        others = [path.name for pattern in OTHERS for path in sorted(folder.glob(pattern))]
        instead = f", only {others[0]}: load it with Transformers and save it with save_pretrained" if others else ""
        raise UserError(f"{folder}: no weights there, *.safetensors are missing{instead}")
    index = {} if "model.safetensors" in there else _json(folder / INDEX)  # one file is read before many
    if not index and "model.safetensors" not in there and len(there) > 1:
        raise UserError(f"{folder}: {INDEX} is missing, by which the {len(there)} files of weights are read; fetch it")
    lost = sorted(set(index.get("weight_map", {}).values()) - there)
    if lost:
        raise UserError(f"{folder}: {len(lost)} of its files of weights are missing, as {lost[0]}; fetch them again")


def _json(path: Path) -> dict[str, Any]:
    """Of a file that others wrote; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); fetch or save it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: its JSON is no mapping; fetch or save it again")
    return content
