"""A checkpoint's ``generation_config.json``, which is not always one that Transformers would save again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blade_dist.store.files import read_json

FILE = "generation_config.json"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def generation_problem(folder: Path) -> str | None:
    """Why Transformers would refuse to save the file of ``folder``, as a temperature beside greedy decoding; None where
    it would not, or there is none."""
    from transformers import GenerationConfig

    if not (folder / FILE).is_file():
        return None
    try:
        GenerationConfig.from_pretrained(folder).validate(strict=True)
    except (OSError, ValueError, TypeError) as error:
        lines = [line.lstrip("- ") for line in str(error).splitlines() if line.strip()]
        return " ".join((lines[1] if lines[0].startswith("GenerationConfig is") else lines[0]).split())[:120]
    return None


def plain_generation(folder: Path) -> dict[str, Any]:
    """What ``from_pretrained`` is given for a folder whose file is refused: one with the model's special tokens alone.

    Nothing here decodes by that file; but a policy is saved with what it was loaded with.
    """
    from transformers import GenerationConfig

    if generation_problem(folder) is None:
        return {}
    config = read_json(folder / "config.json") or {}
    inner = config.get("text_config")
    known = (inner if isinstance(inner, dict) else {}) | config
    return {"generation_config": GenerationConfig(**{name: known[name] for name in _TOKENS if name in known})}
