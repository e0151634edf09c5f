"""How long a sequence a Hugging Face checkpoint takes."""

from __future__ import annotations

from pathlib import Path

from blade_dist.store.files import read_json

NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
"""What models call it."""

NO_LIMIT = 2**20
"""Tokens, where a model names no limit."""


def context_setting(directory: Path) -> tuple[str, int] | None:
    """Name and value of the limit, tokens; None where the checkpoint's config has none."""
    config = read_json(directory / "config.json") or {}
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for name in NAMES:
            if isinstance(part.get(name), int):
                return name, part[name]
    return None


def context_length(directory: Path) -> int:
    """The limit, tokens."""
    found = context_setting(directory)
    return NO_LIMIT if found is None else found[1]
